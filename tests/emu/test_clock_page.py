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


@pytest.mark.parametrize("target", VECTOR_HZ)
def test_strides_over_16_bytes_halve_the_rate_of_an_access(target: str) -> None:
    core = torch_trn.emu.NeuronCore(target)
    n = 256
    out = core.sbuf("float32", 128, n)
    row = core.sbuf("float32", 128, 8 * n)
    row.write(numpy.ones((128, 8 * n)))
    near, far = row.pattern(128, 0, [(4, n)]), row.pattern(128, 0, [(5, n)])  # 16 and 20 bytes apart
    for tile in (row.pattern(128, 0, [(1, n)]), near, far):
        core.tensor_copy(out, tile, engine="vector")
    core.tensor_copy(far, out, engine="vector")  # written as it is read
    core.tensor_copy(out, row.pattern(128, 0, [(8, n // 4), (1, 4)]), engine="vector")  # near along what streams
    core.tensor_tensor(out, far, out, "add", engine="vector")
    core.reciprocal(out, far)  # waits for its arithmetic
    clock = core.timeline().to_dict()
    spans = zip(clock["start_seconds"], clock["end_seconds"], strict=True)
    cycles = [round((end - start) * VECTOR_HZ[target]) for start, end in spans]
    assert cycles == [n, n, 2 * n, 2 * n, n, 4 * n, 8 * n]


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_engines_of_v2_take_turns_at_a_memory(target: str) -> None:
    """VectorE with GpSimdE at SBUF, with ScalarE at PSUM; ScalarE and GpSimdE share neither."""
    core = torch_trn.emu.NeuronCore(target)
    on_chip = [core.sbuf("float32", 128, 512) for _ in range(6)]
    in_psum = [core.psum("float32", 128, 512) for _ in range(3)]
    core.tensor_copy(on_chip[0], on_chip[1], engine="vector")
    core.iota(on_chip[2], [(1, 512)], 0)
    core.activation(on_chip[3], "exp", on_chip[4])
    core.activation(in_psum[0], "exp", on_chip[4])
    core.tensor_copy(in_psum[1], in_psum[2], engine="vector")
    timeline = core.timeline()
    overlap = [
        timeline[i].start_seconds < timeline[j].end_seconds and timeline[j].start_seconds < timeline[i].end_seconds
        for i, j in [(0, 1), (0, 2), (1, 3), (3, 4)]
    ]
    assert overlap == ([False, True, True, False] if target == "trn1" else [True, True, True, True])
