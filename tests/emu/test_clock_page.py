"""What docs/instructions.md says of the simulated clock beyond its column of cycles."""

import numpy
import pytest

import torch_trn

VECTOR_HZ = {"trn1": 1.12e9, "trn2": 0.96e9, "trn3": 1.2e9}


@pytest.mark.parametrize("target", VECTOR_HZ)
def test_tensor_tensor_of_16_bits_takes_half_from_v3_on(target: str) -> None:
    core = torch_trn.emu.NeuronCore(target)
    n = 512
    for dtype in ("bfloat16", "float32"):
        out, a, b = (core.sbuf(dtype, 128, n) for _ in range(3))
        a.write(numpy.ones((128, n)))
        b.write(numpy.ones((128, n)))
        for op in ("add", "divide"):
            core.tensor_tensor(out, a, b, op)
    clock = core.timeline().to_dict()
    spans = zip(clock["start_seconds"], clock["end_seconds"], strict=True)
    cycles = [round((end - start) * VECTOR_HZ[target]) for start, end in spans]
    narrow = [n, 2 * n] if target == "trn1" else [n // 2, n]
    assert cycles == [*narrow, 2 * n, 8 * n]


@pytest.mark.parametrize(("target", "hz", "efficiency"), [("trn1", 2.8e9, 0.725), ("trn2", 2.4e9, 0.95)])
def test_cycles_of_tensor_engine_last_longer(target: str, hz: float, efficiency: float) -> None:
    core = torch_trn.emu.NeuronCore(target)
    stationary, moving = core.sbuf("bfloat16", 128, 128), core.sbuf("bfloat16", 128, 500)
    stationary.write(numpy.ones((128, 128)))
    moving.write(numpy.ones((128, 500)))
    core.nc_matmul(core.psum("float32", 128, 500), stationary, moving)
    clock = core.timeline().to_dict()
    (cycles,) = ((end - start) * hz for start, end in zip(clock["start_seconds"], clock["end_seconds"], strict=True))
    assert cycles == pytest.approx(500 / efficiency, rel=1e-3)
