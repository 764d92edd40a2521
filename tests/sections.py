"""What a folder of tests has to say at the end of a run, also from the worker processes of pytest-xdist."""

from typing import Any

import pytest

SECTIONS = pytest.StashKey[dict[str, list[str]]]()


def add_section(config: pytest.Config, title: str, lines: list[str]) -> None:
    config.stash.setdefault(SECTIONS, {})[title] = lines


class Sections:
    """The plugin that carries them to the process that prints."""

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["sections"] = session.config.stash.get(SECTIONS, {})

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for title, lines in getattr(node, "workeroutput", {}).get("sections", {}).items():
            add_section(node.config, title, lines)

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        for title, lines in config.stash.get(SECTIONS, {}).items():
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.line(line)
