"""The C++ record of a target holds what the file says, under the same names, and takes nothing else."""

import pickle
import re
from typing import Any

import pytest

from torch_trn import _C
from torch_trn import target_files as targets

NAMES = targets.names()


@pytest.mark.parametrize("name", NAMES)
def test_record_equals_the_file(name: str) -> None:
    target = targets.load(name)
    record = _C.Target(target)
    assert record.to_dict() == target.to_dict()
    assert record.core.tensor_clock_hz == target["core"]["tensor_clock_hz"]
    assert record.instances[-1].links[-1].topology == target["instances"][-1]["links"][-1]["topology"]
    assert record == _C.Target(target.to_dict()) == pickle.loads(pickle.dumps(record))
    assert f"'name': '{name}'" in repr(record)


def test_record_is_read_only() -> None:
    record = _C.Target(targets.load("trn2"))
    with pytest.raises(AttributeError):
        record.core.tensor_clock_hz = 1.0
    assert record != _C.Target(targets.load("trn3"))


RECORDS = [
    (lambda d: d["core"].pop("num_partitions"), "core.num_partitions: must be given; got none."),
    (lambda d: d.pop("device"), "device: must be given; got none."),
    (lambda d: d["device"].update(x=1), "device.x: must be a field of the record; got 1. Remove it."),
    (lambda d: d.update(core=3), "core: must be a dict of fields; got 3."),
    (lambda d: d["core"].update(num_partitions=1.5), "core.num_partitions: must be a whole number; got 1.5."),
    (lambda d: d["core"].update(num_partitions=True), "core.num_partitions: must be a whole number; got True."),
    (lambda d: d["core"].update(num_partitions=2**70), "core.num_partitions: must fit in 64 bits; got 1180591"),
    (lambda d: d["core"].update(tensor_clock_hz="x"), "core.tensor_clock_hz: must be a number; got 'x'."),
    (lambda d: d["core"].update(generation=2), "core.generation: must be a string; got 2."),
    (lambda d: d["chip"].update(links={}), "chip.links: must be a list; got {}."),
    (lambda d: d["instances"][1]["links"][0].pop("name"), "instances[1].links[0].name: must be given; got none."),
]


@pytest.mark.parametrize(("change", "words"), RECORDS, ids=[words.split(":")[0] for _, words in RECORDS])
def test_record_rejects(change: Any, words: str) -> None:
    plain = targets.load("trn2").to_dict()
    change(plain)
    with pytest.raises(ValueError, match=re.escape(f"[target] {words}")):
        _C.Target(plain)
