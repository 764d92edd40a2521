"""torch_trn.emu.NeuronCore as its docstring shows it, by target names and files."""

from pathlib import Path

import numpy as np
import pytest

from torch_trn import emu, target_files


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3", "inf2"])
def test_an_instruction_on_every_target(target: str) -> None:
    core = emu.NeuronCore(target)
    x, y = core.sbuf("float32", 128, 512), core.sbuf("bfloat16", 128, 512)
    values = np.random.default_rng(0).standard_normal((128, 512)).astype(np.float32)
    x.write(values)
    core.activation(y, "exp", x)
    assert np.allclose(y.read(), np.exp(values), rtol=2**-8)
    assert core.target["name"] == target


def test_a_target_file_and_an_unknown_target() -> None:
    path = Path(target_files.__file__).parent / "trn1.toml"
    assert emu.NeuronCore(path).target["name"] == "trn1"
    with pytest.raises(Exception, match="no-such-chip"):
        emu.NeuronCore("no-such-chip")


def test_switches_and_strict_reads() -> None:
    core = emu.NeuronCore("trn2", strict=True, relu_nan_is_zero=False)
    x, y = core.sbuf("float32", 1, 2), core.sbuf("float32", 1, 2)
    with pytest.raises(RuntimeError, match="activation"):
        core.activation(y, "relu", x)
    with pytest.raises(ValueError, match=r"\[numerics\] no such switch; got no_such_switch"):
        emu.NeuronCore("trn2", no_such_switch=True)


@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_tensor_scalar_takes_all_bits(name: str) -> None:
    core = emu.NeuronCore("trn2")
    x, scalars, out = (core.sbuf("int32", 1, n) for n in (3, 1, 3))
    data, bits = np.array([[0x7FFFFFFF, 0x01000001, -5]], np.int32), 0x01234567
    x.write(data)
    scalars.write(np.array([[bits]], np.int32))
    for operand in (bits, scalars):
        core.tensor_scalar(out, x, name, operand)
        np.testing.assert_array_equal(out.read(), getattr(np, name)(data, np.int32(bits)))
