"""Random numbers: one generator per device, whose state is a seed and an offset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import torch

from torch_trn import _C
from torch_trn.this_rank import current_rank

from .index import DeviceLike, _checked_index, current_device, device_count

__all__ = [
    "default_generators",
    "get_rng_state",
    "get_rng_state_all",
    "initial_seed",
    "manual_seed",
    "manual_seed_all",
    "seed",
    "seed_all",
    "set_rng_state",
    "set_rng_state_all",
]


class _DefaultGenerators(Sequence[torch.Generator]):
    """The devices' default generators by index, made when first asked for."""

    def __len__(self) -> int:
        return device_count()

    @overload
    def __getitem__(self, index: int) -> torch.Generator: ...
    @overload
    def __getitem__(self, index: slice) -> list[torch.Generator]: ...
    def __getitem__(self, index: int | slice) -> torch.Generator | list[torch.Generator]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"device index {index} out of range; there are {len(self)} devices")
        generator: torch.Generator = _C.default_generator(index % len(self))
        return generator

    def __iter__(self) -> Iterator[torch.Generator]:
        return (self[i] for i in range(len(self)))


default_generators = _DefaultGenerators()


def get_rng_state(device: DeviceLike = None) -> torch.Tensor:
    """State of a device's generator: 16 bytes on the CPU, u64 seed then u64 offset."""
    return default_generators[_checked_index(device)].get_state()


def get_rng_state_all() -> list[torch.Tensor]:
    """State of every device's generator."""
    return [generator.get_state() for generator in default_generators]


def set_rng_state(new_state: torch.Tensor, device: DeviceLike = None) -> None:
    """Puts a state from get_rng_state back."""
    default_generators[_checked_index(device)].set_state(new_state)


def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    """Puts the states from get_rng_state_all back."""
    for index, state in enumerate(new_states):
        set_rng_state(state, index)


def manual_seed(seed: int) -> None:
    """Seeds the current device."""
    default_generators[current_device()].manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    """Seeds every device; torch.manual_seed calls it. A simulated rank has one, the current."""
    if current_rank() is not None:
        manual_seed(seed)
        return
    for generator in default_generators:
        generator.manual_seed(int(seed))


def seed() -> None:
    """Seeds the current device with a random number."""
    default_generators[current_device()].seed()


def seed_all() -> None:
    """Seeds every device with one random number."""
    if device_count():
        manual_seed_all(default_generators[0].seed())


def initial_seed() -> int:
    """Seed of the current device."""
    return default_generators[current_device()].initial_seed()
