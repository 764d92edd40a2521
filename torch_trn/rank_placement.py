"""Which devices of which system the ranks of a job stand for: what collectives are costed on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from torch_trn import native

ORDERS = ("linear", "round-robin")
Placement = dict[str, Any]


def of_one_rank() -> Placement:
    """The placement of a process that is no job's."""
    return {"world_size": 1, "order": "linear", "devices": [], "instance": ""}


def changed(placement: Mapping[str, Any], order: str | Iterable[int] | None, instance: str | None) -> Placement:
    """A copy with another order, or another instance ("" for the smallest that holds the job); None leaves it."""
    new = dict(placement)
    if isinstance(order, str):
        if order not in ORDERS:
            raise ValueError(
                f"[placement] order must be {', '.join(ORDERS)} or a list of devices, one for each rank; got {order!r}."
            )
        new.update(order=order, devices=[])
    elif order is not None:
        devices = list(order)
        if not devices or not all(isinstance(device, int) and not isinstance(device, bool) for device in devices):
            raise ValueError(
                f"[placement] devices must be whole numbers, one for each rank; got {devices!r}. Count them from 0 "
                "along a chip, then chip by chip."
            )
        new.update(order="listed", devices=devices)
    if instance is not None:
        new["instance"] = instance
    return new


def set_placement(order: str | Iterable[int] = "linear", instance: str | None = None) -> None:
    """Says where the job's ranks are. Collectives from here on are costed so; values do not change.

    Devices are numbered along a chip, then chip by chip, then instance by instance.

    Args:
        order: "linear" (rank r on device r), "round-robin" (consecutive ranks on consecutive chips, as few chips as
            hold the job), or the device of each rank.
        instance: an instance of the target by name, as many as the job needs; the smallest that holds the job, or
            several of the largest, where left out.

    Raises:
        ValueError: no such instance, two ranks on one device, or no network between the instances that are needed.
    """
    c = native.extension()
    c.set_placement(c.current_target(), changed(c.placement(), order, instance or ""))


def placement() -> str:
    """The job's ranks and where they are: "4 ranks, linear, on trn2.3xlarge"."""
    c = native.extension()
    return str(c.CollectiveModel(c.current_target(), c.placement()))


def apply_environment() -> None:
    """TORCH_TRN_PLACEMENT ("linear", "round-robin" or "0,2,1,3") and TORCH_TRN_INSTANCE."""
    order: str | list[int] = os.environ.get("TORCH_TRN_PLACEMENT", "").strip() or "linear"
    instance = os.environ.get("TORCH_TRN_INSTANCE", "").strip()
    if order == "linear" and not instance:
        return
    try:
        if isinstance(order, str) and order.replace(",", "").replace(" ", "").isdigit():
            order = [int(part) for part in order.split(",")]
        set_placement(order, instance)
    except ValueError as error:
        raise ValueError(f"{error} TORCH_TRN_PLACEMENT and TORCH_TRN_INSTANCE chose it.") from None
