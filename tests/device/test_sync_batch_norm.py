"""SyncBatchNorm's kernels and the module over a process group, against BatchNorm on the CPU."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing import assert_close
from torch.testing._internal.distributed.fake_pg import FakeStore


@pytest.fixture(params=["gloo", "fake"])
def group(request):
    store = FakeStore() if request.param == "fake" else dist.HashStore()
    dist.init_process_group(request.param, store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def run(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    out = layer(x)
    (out * torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape)).sum().backward()
    tensors = [out, x.grad, *(p.grad for p in layer.parameters()), layer.running_mean, layer.running_var]
    return [t.detach().cpu() for t in tensors]


def pair(channels: int, **options) -> tuple[nn.BatchNorm2d, nn.SyncBatchNorm]:
    plain = nn.BatchNorm2d(channels, **options)
    if plain.affine:
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
    sync = nn.SyncBatchNorm(channels, **options)
    sync.load_state_dict(plain.state_dict())
    return plain, sync.to("trn")


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_module_in_a_group_of_one(seeded, group, affine, momentum):
    plain, sync = pair(5, affine=affine, momentum=momentum)
    x = torch.randn(4, 5, 3, 3) * 2 + 1
    for _ in range(2):
        for actual, expected in zip(run(sync, x.to("trn")), run(plain, x), strict=True):
            assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    sync.eval()
    plain.eval()
    assert_close(sync(x.to("trn")).cpu(), plain(x), rtol=1e-4, atol=1e-5)


def test_converted_model_trains(seeded, group):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    model.to("trn")
    model(torch.randn(2, 3, 6, 6, device="trn")).sum().backward()
    assert all(p.grad.isfinite().all().item() for p in model.parameters())


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.batch_norm_stats(x, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_statistics(seeded, dtype):
    x = torch.randn(6, 4, 5).to(dtype)
    mean, invstd = statistics(x.to("trn"))
    wide = x.double()
    expected_type = torch.float64 if dtype == torch.float64 else torch.float32
    assert mean.dtype == invstd.dtype == expected_type
    assert_close(mean.cpu().double(), wide.mean((0, 2)), rtol=1e-5, atol=1e-5)
    expected = (wide.var((0, 2), correction=0) + 1e-5).rsqrt()
    assert_close(invstd.cpu().double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [(3, 3), (1, 4, 7)])
def test_two_processes_in_one(seeded, sizes):
    """Statistics, forward and backward of unequal shards equal those of the whole batch."""
    channels = 4
    shards = [torch.randn(n, channels, 3, dtype=torch.double) * (i + 1) + i for i, n in enumerate(sizes)]
    whole = torch.cat(shards).requires_grad_()
    weight, bias = torch.randn(channels).double(), torch.randn(channels).double()
    running_mean, running_var = torch.zeros(channels).double(), torch.ones(channels).double()
    weight.requires_grad_()
    out = nn.functional.batch_norm(whole, running_mean, running_var, weight, bias, training=True)
    grad_out = torch.randn_like(out)
    out.backward(grad_out)

    device_shards = [shard.to("trn") for shard in shards]
    means, invstds = (torch.stack(part) for part in zip(*map(statistics, device_shards), strict=True))
    counts = torch.tensor([shard.numel() // channels for shard in shards], dtype=torch.double, device="trn")
    device_mean, device_var = torch.zeros(channels).double().to("trn"), torch.ones(channels).double().to("trn")
    mean, invstd = torch.batch_norm_gather_stats_with_counts(
        device_shards[0], means, invstds, device_mean, device_var, 0.1, 1e-5, counts
    )
    assert_close(device_mean.cpu(), running_mean)
    assert_close(device_var.cpu(), running_var)
    device_weight, device_bias = weight.detach().to("trn"), bias.to("trn")
    outs = [torch.batch_norm_elemt(s, device_weight, device_bias, mean, invstd, 1e-5) for s in device_shards]
    assert_close(torch.cat(outs).cpu(), out.detach())

    grads = [g.contiguous().to("trn") for g in grad_out.split(sizes)]
    reduced = [
        torch.batch_norm_backward_reduce(g, s, mean, invstd, device_weight, True, True, True)
        for g, s in zip(grads, device_shards, strict=True)
    ]
    sum_dy, sum_dy_xmu, grad_weight, _ = (sum(parts) for parts in zip(*reduced, strict=True))
    assert_close(grad_weight.cpu(), weight.grad)
    inputs = [
        torch.batch_norm_backward_elemt(g, s, mean, invstd, device_weight, sum_dy, sum_dy_xmu, counts.int())
        for g, s in zip(grads, device_shards, strict=True)
    ]
    assert_close(torch.cat(inputs).cpu(), whole.grad)


def test_masks_of_the_reduction():
    x, one = torch.ones(2, 3, device="trn"), torch.ones(3, device="trn")
    results = torch.batch_norm_backward_reduce(x, x, one, one, one, False, True, False)
    assert [r is None for r in results] == [True, True, False, True]


def test_odd_shapes_raise():
    one = torch.ones(3, device="trn")
    with pytest.raises(RuntimeError, match="batch, channels"):
        torch.batch_norm_stats(one, 1e-5)
    with pytest.raises(RuntimeError, match="processes, channels"):
        torch.batch_norm_gather_stats_with_counts(one, one, one, None, None, 0.1, 1e-5, one)
