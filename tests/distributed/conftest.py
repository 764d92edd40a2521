"""Ranks that live as long as the session; new ones after a test that left them unusable."""

from collections.abc import Callable, Iterator

import pytest
from ranks import Ranks


@pytest.fixture(scope="session")
def pool() -> Iterator[Callable[[int], Ranks]]:
    pools: dict[int, Ranks] = {}

    def of_size(world_size: int) -> Ranks:
        if world_size not in pools or not pools[world_size].usable:
            pools[world_size] = Ranks(world_size)
        return pools[world_size]

    yield of_size
    for ranks in pools.values():
        ranks.close()


@pytest.fixture
def two_ranks(pool: Callable[[int], Ranks]) -> Ranks:
    return pool(2)


@pytest.fixture
def four_ranks(pool: Callable[[int], Ranks]) -> Ranks:
    return pool(4)
