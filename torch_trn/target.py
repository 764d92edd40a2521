"""The target that the simulated device stands for, chosen by name or by a file of the user's own."""

from __future__ import annotations

import os

from torch_trn import _C, target_files


def targets() -> list[str]:
    """Names of the packaged targets."""
    return target_files.names()


def current_target() -> str:
    """Name of the target that launches are costed on."""
    return str(_C.current_target_name())


def set_target(name_or_path: str | os.PathLike[str]) -> None:
    """Costs and memory limits follow at once, for all devices; tensors stay.

    Args:
        name_or_path: a packaged target ("trn2") or the path of a TOML file.

    Raises:
        TargetError: no such target, or a bad file; names the file and the field.
    """
    _C.set_target(_C.Target(target_files.load(name_or_path)))
