"""Ranks that live as long as one file's tests."""

from collections.abc import Iterator

import pytest
from ranks import Ranks, running


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[Ranks]:
    with running(2) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[Ranks]:
    with running(4) as ranks:
        yield ranks
