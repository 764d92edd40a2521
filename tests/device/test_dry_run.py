"""Dry runs: the counts, time and memory of a run with values; nothing committed; reads answered or refused."""

import contextlib
import ctypes
import gc
import itertools
import os
import re
import subprocess
import sys

import models
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_trn
from torch_trn import _C, NoValueError, dry_run

MIB = 1 << 20


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(20, 32, 2, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.out(self.lstm(x.unsqueeze(1).expand(-1, 5, -1))[0][:, -1])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(20, 4, 48, dropout=0.1, batch_first=True)
        self.layers, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(20, 10)

    def forward(self, x):
        return self.out(self.layers(x.unsqueeze(1).expand(-1, 6, -1)).mean(1))


MODELS = {**models.MODELS, "lstm": (Recurrent, models.vector_batch), "encoder": (Encoder, models.vector_batch)}
PAIRS = [(name, "adamw foreach") for name in MODELS] + [("mlp", name) for name in models.OPTIMIZERS]


def train(build, batch, make_optimizer, steps=3):
    """A recording of some steps from fresh memory on, the peak of it, and where the generator ends."""
    gc.collect()
    torch.trn.empty_cache()
    torch.trn.reset_peak_memory_stats()
    torch.manual_seed(0)
    torch.trn.manual_seed(0)
    model = build().to("trn")
    optimizer = make_optimizer(model.parameters())

    with torch_trn.profile() as prof:
        for number in range(steps):
            x, y = (part.to("trn") for part in batch(number))
            optimizer.zero_grad()
            models.loss_of(model, x, y).backward()
            optimizer.step()
    return prof, torch.trn.max_memory_allocated(), torch.trn.default_generators[0].get_offset()


def lost(work):
    """Runs it dry with every host copy's values lost on the way, however small the tensors."""
    limit = _C.set_most_held_bytes(0)
    try:
        with dry_run():
            return work()
    finally:
        _C.set_most_held_bytes(limit)


def assert_same_recording(dry, real):
    ours, theirs = dry.to_dict(), real.to_dict()
    assert ours["launches"] > 10
    assert {key: value for key, value in ours.items() if value != theirs[key]} == {}
    assert [row.to_dict() for row in dry.by_line()] == [row.to_dict() for row in real.by_line()]


@pytest.mark.parametrize(("model", "optimizer"), PAIRS)
def test_counts_time_and_memory_are_a_real_runs(model, optimizer, seeded):
    work = (*MODELS[model], models.OPTIMIZERS[optimizer])
    real, real_peak, real_offset = train(*work)
    dry, dry_peak, dry_offset = lost(lambda: train(*work))
    assert_same_recording(dry, real)
    assert dry_peak == real_peak
    assert dry_offset == real_offset


def amp_steps(checks):
    torch.manual_seed(0)
    model = models.CNN().to("trn")
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("trn")
    with torch_trn.profile() as prof:
        for number in range(3):
            x, y = (part.to("trn") for part in models.image_batch(number))
            with torch.autocast("trn", dtype=torch.bfloat16):
                loss = models.loss_of(model, x, y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
    checks.append(scaler.get_scale())
    return prof


def test_autocast_and_grad_scaler():
    real, dry = [], []
    expected = amp_steps(real)
    with dry_run():
        got = amp_steps(dry)
    assert_same_recording(got, expected)
    assert dry == real == [65536.0]


@pytest.mark.parametrize("bounds", [{}, {"mean": 5.0, "a": 3.0, "b": 5.5}, {"a": 1.5, "b": 8.0}])
@pytest.mark.parametrize("context", [contextlib.nullcontext, lambda: torch.device("trn")])
def test_initialisers_that_draw_until_all_are_within_bounds(bounds, context):
    with torch_trn.dry_run(), context(), torch_trn.profile() as prof:
        weight = torch.empty(64, 64, device="trn")
        assert nn.init.trunc_normal_(weight, **bounds) is weight
        with pytest.raises(torch_trn.NoValueError):
            weight.isnan().any().item()
    assert prof.launches > 1


def test_checkpointing_and_dropout():
    from torch.utils.checkpoint import checkpoint

    def work():
        layer = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.GELU(), nn.Linear(64, 64)).to("trn")
        with torch_trn.profile() as prof:
            checkpoint(layer, torch.ones(32, 64, device="trn"), use_reentrant=False).sum().backward()
        return prof

    assert_same_recording(lost(work), work())


def resident_bytes(tensor):
    """Of the host's pages behind a tensor's memory, those that are there."""
    page = os.sysconf("SC_PAGESIZE")
    first = (tensor.data_ptr() + page - 1) // page * page
    pages = (tensor.data_ptr() + tensor.nbytes - first) // page
    found = (ctypes.c_ubyte * pages)()
    assert ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(first), ctypes.c_size_t(pages * page), found) == 0
    return page * sum(byte & 1 for byte in found)


def test_the_measure_of_residence():
    assert resident_bytes(torch.ones(4 * MIB, device="trn")) >= 15 * MIB


def test_nothing_is_committed():
    gc.collect()
    torch.trn.empty_cache()
    with dry_run():
        with torch.device("trn"):
            model = nn.Sequential(*[nn.Linear(16384, 16384, dtype=torch.bfloat16) for _ in range(8)])
            x = torch.randn(4096, 16384, dtype=torch.bfloat16)
        loss = model(x).float().square().mean()
        loss.backward()
        for parameter in model.parameters():
            parameter.data.add_(parameter.grad, alpha=-0.1)
        assert torch.trn.memory_allocated() > 8 << 30
        assert sum(resident_bytes(p) for p in [x, *model.parameters()] if p.nbytes > MIB) == 0
        assert all(not _C.holds_values(p) for p in model.parameters() if p.nbytes > MIB)


def test_more_than_the_device_has():
    with dry_run():
        kept = [torch.empty(4 << 30, dtype=torch.int8, device="trn") for _ in range(5)]
        with pytest.raises(torch.OutOfMemoryError, match=r"HBM\] .*(?s:.*)category .* tensors") as error:
            torch.randn(4 << 30, device="trn")
        assert "activations" in str(error.value)
        del kept


def test_an_unsharded_70b_model_is_out_of_memory():
    with dry_run(), pytest.raises(torch.OutOfMemoryError), torch.device("trn"):
        nn.Sequential(*[nn.Linear(28672, 8192, dtype=torch.bfloat16) for _ in range(240)])


def unknown(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="trn").to(dtype)


READS = {
    "item": lambda: unknown(200).sum().item(),
    "copy to host": lambda: unknown(200).cpu(),
    "nonzero": lambda: unknown(200).nonzero(),
    "masked_select": lambda: unknown(200).masked_select(unknown(200) > 0),
    "equal": lambda: torch.equal(unknown(200), unknown(200)),
    "_unique2": lambda: unknown(200).unique(),
}


@pytest.mark.parametrize("op", READS)
def test_a_read_is_refused_with_its_line(op):
    line = READS[op].__code__.co_firstlineno
    with dry_run(), pytest.raises(NoValueError, match=rf"{re.escape(op)} at .*test_dry_run.py:{line} of "):
        READS[op]()


def test_a_choice_by_an_unknown_mask_is_refused_and_a_write_by_one_is_not():
    with dry_run():
        x, mask = unknown(200), unknown(200) > 0
        with pytest.raises(NoValueError, match=r"nonzero at .*test_dry_run.py:\d+ of torch.bool \[200\]"):
            x[mask]
        x.index_put_((mask,), unknown(200))
        x[mask] = 1.0


@pytest.mark.parametrize("read", [bool, float, int, lambda t: t.tolist(), repr, lambda t: t.cpu().numpy()])
def test_every_way_of_reading_is_refused(read):
    with dry_run(), pytest.raises(NoValueError, match="Supply one"):
        read(unknown(200).sum())


def test_a_number_answers_every_read():
    with dry_run(values=0.5):
        loss = unknown(200).sum()
        assert loss.item() == 0.5
        assert bool(loss)
        assert unknown(3, 40).tolist() == [[0.5] * 40] * 3
        assert unknown(200).nonzero().shape == (200, 1)
        assert unknown(200)[unknown(200) > 0].shape == (200,)
        assert "5.0000e-01, device='trn:0'" in repr(loss)
    with dry_run(values=0):
        assert unknown(200)[unknown(200) > 0].shape == (0,)


def test_a_callable_sees_the_read():
    reads = []

    def answer(read):
        reads.append(read)
        return torch.arange(200.0) if read.op == "copy to host" else None

    with dry_run(values=answer):
        assert unknown(200).cpu()[7] == 7
        with pytest.raises(NoValueError):
            unknown(200).sum().item()
    assert [(read.op, read.shape, read.dtype) for read in reads] == [
        ("copy to host", (200,), torch.float32),
        ("item", (), torch.float32),
    ]
    assert reads[0].line.startswith(__file__ + ":")
    with dry_run(values=lambda read: torch.zeros(3)), pytest.raises(ValueError, match="shape that is read"):
        unknown(200).cpu()


def test_a_mapping_has_answers_by_line_and_operator():
    line = sys._getframe().f_lineno + 2
    with dry_run(values={f"test_dry_run.py:{line}": 2.0, "item": 3.0, "*": 4.0}):
        first = unknown(200).sum().item()
        second = unknown(200).sum().item()
        assert (first, second, unknown(200).cpu()[0].item()) == (2.0, 3.0, 4.0)


def test_inner_blocks_answer_first():
    with dry_run(values=1.0), dry_run(values={"nonzero": 0.0}):
        assert unknown(200).nonzero().shape == (0, 1)
        assert unknown(200).sum().item() == 1.0


def test_positions_and_masks_are_known():
    """What transformers asks of them: is the text packed, is anything padded?"""
    with dry_run():
        positions = torch.arange(4096, device="trn").expand(2, -1)
        packed = (torch.diff(positions, prepend=positions[:, :1] - 1) != 1).cumsum(-1)
        assert (packed[:, -1] == 0).all()
        mask = torch.ones(2, 4096, dtype=torch.int64).to("trn")
        assert mask.all() and mask.sum(-1).tolist() == [4096, 4096]
        with pytest.raises(NoValueError):
            (positions * 0.5).sum().item()
        with pytest.raises(NoValueError):  # over 1 MiB
            (torch.arange(1 << 18, device="trn") + 1)[-1].item()


def test_values_that_the_host_gave_are_known():
    with dry_run():
        assert torch.tensor([3, 1, 2], device="trn").max().item() == 3
        assert torch.zeros(1000, device="trn")[5].item() == 0
        sizes = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).to("trn")
        assert sizes.nonzero().cpu().tolist() == [[0, 0], [1, 1]]
        sizes += torch.randn(500, device="trn")[:2]
        with pytest.raises(NoValueError):
            sizes.tolist()
        assert sizes.fill_(2).tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 8, 3, 1), (8, 16, 1, 1), (8, 8, 3, 8), (1, 8, 3, 1)])
def test_convolutions_keep_channels_last(shape, dtype):
    """In whatever order they come: neither's layout is taken for the other's."""
    inputs, outputs, kernel, groups = shape
    formats = torch.contiguous_format, torch.channels_last

    def layouts():
        out = []
        for of_weight, of_input in itertools.product(formats, formats):
            layer = nn.Conv2d(inputs, outputs, kernel, groups=groups, padding=1, dtype=dtype)
            layer = layer.to("trn", memory_format=of_weight)
            x = torch.ones(2, inputs, 6, 6, dtype=dtype).to("trn").to(memory_format=of_input).requires_grad_()
            y = layer(x)
            grads = torch.autograd.grad(y.sum(), [x, layer.weight])
            out.append([tensor.stride() for tensor in (y, *grads)])
        return out

    real = layouts()
    assert real[0] != real[3]
    with dry_run():
        assert layouts() == real


HOST_SCALARS = {
    "copysign": lambda x, scalar: torch.copysign(x, scalar),
    "index_add": lambda x, scalar: x[0, 0].index_add(0, torch.tensor([0], device="trn"), scalar),
    "index_copy": lambda x, scalar: x[0, 0].index_copy(0, torch.tensor([0], device="trn"), scalar),
    "index_fill": lambda x, scalar: x.index_fill(0, torch.tensor([1], device="trn"), scalar),
    "masked_fill": lambda x, scalar: x.masked_fill(x > 0, scalar),
}


@pytest.mark.parametrize("name", HOST_SCALARS)
def test_scalars_that_lie_on_the_host(name):
    x = torch.randn(4, 4, device="trn").t()
    scalar = torch.tensor(2.0)
    expected = HOST_SCALARS[name](x, scalar)
    with torch_trn.dry_run():
        got = HOST_SCALARS[name](x, scalar)
    assert (got.shape, got.stride(), got.dtype) == (expected.shape, expected.stride(), expected.dtype)


def test_a_module_of_the_hosts_with_an_argument_left_out():
    """Its operands hold values, and the bias or the offsets that are not there are no operand."""
    x, tokens = torch.randn(2, 3, 8, 8), torch.randint(9, (2, 4))
    work = {
        "conv": (nn.Conv2d(3, 4, 3, bias=False), x),
        "gru": (nn.GRU(8, 5, bias=False), x.flatten(0, 1)),
        "bag": (nn.EmbeddingBag(9, 400, mode="max"), tokens),
    }

    def layouts():
        out = {}
        for name, (module, given) in work.items():
            module.zero_grad()
            result = module.to("trn")(given.to("trn"))
            result = result[0] if isinstance(result, tuple) else result
            result.sum().backward()
            tensors = [result, *(parameter.grad for parameter in module.parameters())]
            out[name] = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors]
            module.cpu()
        return out

    with dry_run(0.0):
        dry = layouts()
    assert dry == layouts()


def test_as_a_decorator():
    @dry_run(values=7.0)
    def work():
        assert torch_trn.is_dry_run()
        return unknown(200).sum().item()

    assert work() == 7.0
    assert not torch_trn.is_dry_run()


def test_tensors_of_a_dry_run_hold_nothing_afterwards():
    before = torch.ones(3, device="trn")
    with dry_run():
        written = unknown(200)
        before += torch.randn(200, device="trn")[:3]
    with pytest.raises(NoValueError, match="holds no values"):
        written.cpu()
    with pytest.raises(RuntimeError, match="a dry run left without"):
        written + 1
    with pytest.raises(NoValueError):
        before.tolist()
    written.copy_(torch.arange(200.0))
    assert (written + 1)[4].item() == 5


def test_large_tensors_of_before_keep_their_values():
    large = torch.full((MIB,), 2.0, device="trn")
    with dry_run():
        assert (large[:10] * 2).shape == (10,)
    assert large.sum().item() == 2 * MIB


def test_strict_memory_is_left_alone():
    with torch_trn.strict(uninitialized=True), dry_run():
        large = torch.empty(1 << 30, dtype=torch.int8, device="trn")
        assert resident_bytes(large) == 0


def test_resized_storages_and_out_arguments():
    with dry_run():
        a = unknown(300, 400)
        storage = a.untyped_storage()
        full = torch.trn.memory_allocated()
        storage.resize_(0)
        assert torch.trn.memory_allocated() <= full - a.nbytes
        storage.resize_(a.nbytes)
        out = torch.empty(0, device="trn")
        torch.mm(a, a.t(), out=out)
        assert (out.shape, out.stride()) == ((300, 300), (300, 1))


def test_an_operator_without_a_shape_rule_is_named():
    with dry_run():
        small = torch.histogram(unknown(50, 30), 10)
        assert small.hist.shape == (10,)
        with pytest.raises(NotImplementedError, match=r"\[dry_run\] .*aten::histogram.* limit 67108864"):
            torch.histogram(torch.empty(1 << 26, device="trn"), 10)


def test_sparse_tensors_say_that_they_need_values():
    with dry_run(), pytest.raises(RuntimeError, match="a dry run left without"):
        unknown(300, 300).to_sparse()


def test_a_nested_result_is_refused():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1).to("trn").eval()
    padding = torch.tensor([[False, False, True], [False] * 3], device="trn")
    x = torch.ones(2, 3, 8, device="trn")
    with dry_run(1.0), torch.no_grad(), pytest.raises(NotImplementedError, match=r"nested.*enable_nested_tensor=False"):
        encoder(x * 2, src_key_padding_mask=padding)


def test_wrong_values_are_refused():
    with pytest.raises(TypeError, match=r"\[dry_run\] values are"):
        dry_run(values="zero")


SCRIPT = """
import torch
model = torch.nn.Linear(3000, 4000).to("trn")
loss = model(torch.randn(16, 3000).to("trn")).square().mean()
print("loss", loss.item())
"""


@pytest.mark.parametrize("how", ["command", "environment"])
def test_a_script(how, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def run(*options, **environment):
        return subprocess.run(
            [sys.executable, "-m", "torch_trn.cli", "run", "-q", *options, str(script)],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )

    if how == "command":
        refused, answered = run("--dry-run"), run("--dry-run", "--values", "0.25")
    else:
        refused = run(TORCH_TRN_DRY_RUN="1")
        answered = run(TORCH_TRN_DRY_RUN="1", TORCH_TRN_DRY_RUN_VALUES="0.25")
    assert refused.returncode == 1
    assert "train.py:5" in refused.stderr
    assert answered.stdout == "loss 0.25\n", answered.stderr


def test_fused_attention_layouts():
    def work():
        q, k, v = (torch.randn(2, 4, 16, 8, device="trn", requires_grad=True) for _ in range(3))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y.sum().backward()
        return [t.stride() for t in (y, q.grad, k.grad, v.grad)]

    assert lost(work) == work()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_function_reads_what_is_supplied(backend):
    """Dynamo looks into no code of the dry run's own, which answers from within the function's frame."""
    torch._dynamo.reset()
    layer, x = nn.Linear(64, 64).to("trn"), torch.ones(32, 64, device="trn")
    compiled = torch.compile(lambda x: (layer(x).relu(), x[x > 0].sum()), backend=backend)
    with dry_run(0.0):
        y, picked = compiled(x + 1)
        (y.sum() + picked).backward()
    assert y.shape == (32, 64) and layer.weight.grad.shape == (64, 64)
