"""Trainings that run alike on every device: each returns its losses and final parameters, on the CPU."""

import torch
import torch.distributed as dist
from torch import nn

BATCH, WIDTH, STEPS = 8, 16, 4


def of_steps(steps, names, kind):
    """Trainings by name, each of so many steps."""
    global STEPS
    STEPS = steps
    return {name: globals()[name](kind) for name in names}


def device_of(kind):
    return torch.device(kind, dist.get_rank()) if kind != "cpu" else torch.device("cpu")


def mlp(width=WIDTH, depth=3):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)]
    return nn.Sequential(*layers)


def batch(step, rank=None):
    generator = torch.Generator().manual_seed(1000 * step + (dist.get_rank() if rank is None else rank))
    return torch.randn(BATCH, WIDTH, generator=generator)


def full(tensor):
    from torch.distributed.tensor import DTensor

    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().cpu().clone()


def train(model, forward, device, steps=None, optimizer=None, clip=False):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps or STEPS):
        x = batch(step).to(device)
        optimizer.zero_grad()
        loss = forward(x).float().square().mean()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
    return losses


def results(losses, model):
    return [torch.tensor(losses), *[full(parameter) for parameter in model.parameters()]]


# DistributedDataParallel
def ddp(kind, **options):
    device = device_of(kind)
    model = nn.parallel.DistributedDataParallel(mlp().to(device), **options)
    return results(train(model, model, device), model)


def ddp_small_buckets(kind):
    return ddp(kind, bucket_cap_mb=0.001, gradient_as_bucket_view=True)


def ddp_static_graph(kind):
    return ddp(kind, static_graph=True)


def ddp_device_ids(kind):
    return ddp(kind, device_ids=None if kind == "cpu" else [dist.get_rank()])


class Choosing(nn.Module):
    """Uses one of two branches: the other's parameters get no gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.branches[self.calls % 2](x)


def ddp_unused_parameters(kind):
    device = device_of(kind)
    model = nn.parallel.DistributedDataParallel(Choosing().to(device), find_unused_parameters=True)
    return results(train(model, model, device, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)), model)


def ddp_no_sync(kind):
    device = device_of(kind)
    model = nn.parallel.DistributedDataParallel(mlp().to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(STEPS):
        with model.no_sync():
            model(batch(step).to(device)).square().mean().backward()
        loss = model(batch(100 + step).to(device)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return results(losses, model)


def ddp_join(kind):
    device = device_of(kind)
    model = nn.parallel.DistributedDataParallel(mlp().to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with model.join():
        for step in range(2 + dist.get_rank()):  # uneven inputs
            model(batch(step).to(device)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return results([], model)


def ddp_hook(kind, hook, state=None):
    device = device_of(kind)
    model = nn.parallel.DistributedDataParallel(mlp().to(device))
    model.register_comm_hook(state, hook)
    return results(train(model, model, device), model)


def ddp_fp16_hook(kind):
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    return ddp_hook(kind, fp16_compress_hook)


def ddp_own_hook(kind):
    def halved(state, bucket):
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda future: future.value()[0] / 2)

    return ddp_hook(kind, halved)


def ddp_powersgd(kind):
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powersgd

    state = powersgd.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2)
    return ddp_hook(kind, powersgd.powerSGD_hook, state)


def ddp_buffers(kind):
    device = device_of(kind)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH))
    model = nn.parallel.DistributedDataParallel(plain.to(device))
    losses = train(model, model, device)
    return [*results(losses, model), *[full(buffer).float() for buffer in model.buffers()]]


def zero_optimizer(kind):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    device = device_of(kind)
    model = nn.parallel.DistributedDataParallel(mlp().to(device))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2)
    return results(train(model, model, device, optimizer=optimizer), model)


# FSDP
def fsdp1(kind):
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    device = device_of(kind)
    model = FullyShardedDataParallel(
        mlp().to(device), auto_wrap_policy=ModuleWrapPolicy({nn.Linear}), device_id=device, use_orig_params=True
    )
    losses = train(model, model, device)
    with FullyShardedDataParallel.summon_full_params(model):
        return results(losses, model)


def fsdp2(kind, clip=False, **options):
    from torch.distributed.fsdp import fully_shard

    device = device_of(kind)
    mesh = dist.init_device_mesh(kind, (dist.get_world_size(),))
    model = mlp().to(device)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return results(train(model, model, device, clip=clip), model)


def fsdp2_clipped(kind):
    return fsdp2(kind, clip=True)


def fsdp2_keep_gathered(kind):
    return fsdp2(kind, reshard_after_forward=False)


def fsdp2_mixed(kind):
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return fsdp2(kind, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))


def fsdp2_offload(kind):
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

    return fsdp2(kind, offload_policy=OffloadPolicy() if kind == "cpu" else CPUOffloadPolicy(pin_memory=False))


def hsdp(kind):
    from torch.distributed.fsdp import fully_shard

    device = device_of(kind)
    mesh = dist.init_device_mesh(kind, (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))
    model = mlp().to(device)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return results(train(model, model, device), model)


# Tensor, sequence and two-dimensional parallelism
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


def blocks():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block())


def same_batch_train(model, forward, device):
    # The device's default, foreach, takes no mix of plain and distributed parameters.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    losses = []
    for step in range(STEPS):
        x = batch(step, rank=0).to(device)
        optimizer.zero_grad()
        loss = forward(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(full(loss).item())
    return results(losses, model)


def tensor_parallel(kind):
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    device = device_of(kind)
    mesh = dist.init_device_mesh(kind, (dist.get_world_size(),))
    model = blocks().to(device)
    for block in model:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return same_batch_train(model, model, device)


def sequence_parallel(kind):
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        PrepareModuleOutput,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    device = device_of(kind)
    mesh = dist.init_device_mesh(kind, (dist.get_world_size(),))
    model = nn.Sequential(blocks()).to(device)
    plan = {"0": PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Shard(0),))}
    for i in range(2):
        plan |= {
            f"0.{i}.norm": SequenceParallel(sequence_dim=0),
            f"0.{i}.up": ColwiseParallel(input_layouts=Shard(0)),
            f"0.{i}.down": RowwiseParallel(output_layouts=Shard(0), use_local_output=False),
        }
    plan["0"] = PrepareModuleInput(
        input_layouts=(Replicate(),), desired_input_layouts=(Shard(0),), use_local_output=False
    )
    parallelize_module(model, mesh, plan)
    parallelize_module(
        model, mesh, {"": PrepareModuleOutput(output_layouts=(Shard(0),), desired_output_layouts=(Replicate(),))}
    )
    return same_batch_train(model, model, device)


def two_dimensional(kind):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    device = device_of(kind)
    mesh = dist.init_device_mesh(kind, (2, dist.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
    model = blocks().to(device)
    for block in model:
        parallelize_module(block, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(STEPS):
        x = batch(step, rank=mesh.get_local_rank("data")).to(device)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return results(losses, model)


# Pipelines
def pipeline(kind, schedule):
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import PipelineScheduleSingle, get_schedule_class

    rank, size, device = dist.get_rank(), dist.get_world_size(), device_of(kind)
    schedule_class = get_schedule_class(schedule)
    single = issubclass(schedule_class, PipelineScheduleSingle)
    num_stages = size if single else 2 * size
    torch.manual_seed(0)
    modules = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(num_stages)]
    mine = [rank] if single else [rank, rank + size]
    if schedule in ("ZBVZeroBubble", "DualPipeV"):
        mine = [rank, num_stages - 1 - rank]
    held = [modules[i].to(device) for i in mine]
    stages = [PipelineStage(module, i, num_stages, device) for module, i in zip(held, mine)]
    runner = schedule_class(
        stages[0] if single else stages,
        max(4, size),
        loss_fn=lambda y, target: (y - target).square().mean(),
        scale_grads=True,
    )
    parameters = [parameter for module in held for parameter in module.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    all_losses = []
    for step in range(STEPS):
        losses = []
        x, y = batch(step, rank=0).to(device), batch(step, rank=1).to(device)
        optimizer.zero_grad()
        runner.step(*([x] if 0 in mine else []), target=y if num_stages - 1 in mine else None, losses=losses)
        optimizer.step()
        all_losses += [loss.item() for loss in losses]
    return [torch.tensor(all_losses), *[full(parameter) for parameter in parameters]]


def pipeline_gpipe(kind):
    return pipeline(kind, "GPipe")


def pipeline_1f1b(kind):
    return pipeline(kind, "1F1B")


def pipeline_interleaved(kind):
    return pipeline(kind, "Interleaved1F1B")


def pipeline_looped_bfs(kind):
    return pipeline(kind, "LoopedBFS")


def pipeline_zero_bubble(kind):
    return pipeline(kind, "InterleavedZeroBubble")


def pipeline_zbv(kind):
    return pipeline(kind, "ZBVZeroBubble")


def pipeline_dualpipe(kind):
    return pipeline(kind, "DualPipeV")


# Distributed tensors
def distributed_tensors(kind):
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    device = device_of(kind)
    size = dist.get_world_size()
    mesh = dist.init_device_mesh(kind, (size,))
    whole = torch.arange(float(6 * size * size)).reshape(2 * size, 3 * size).to(device)
    rows = distribute_tensor(whole, mesh, [Shard(0)])
    columns = rows.redistribute(mesh, [Shard(1)])
    summed = DTensor.from_local(rows.to_local(), mesh, [Partial()], run_check=False)
    uneven = distribute_tensor(whole[: 2 * size - 1], mesh, [Shard(0)])
    return [
        full(columns),
        columns.to_local().cpu(),
        full(summed),
        summed.redistribute(mesh, [Shard(0)]).to_local().cpu(),
        full(rows @ columns.t()),
        full(rows.redistribute(mesh, [Replicate()]).softmax(-1)),
        full(uneven.redistribute(mesh, [Shard(1)])),
        full(rows.sum()),
    ]


# What two ranks run, in processes and without values.
TWO_RANKS = [
    "ddp",
    "ddp_small_buckets",
    "ddp_static_graph",
    "ddp_unused_parameters",
    "ddp_no_sync",
    "ddp_fp16_hook",
    "ddp_own_hook",
    "ddp_buffers",
    "zero_optimizer",
    "fsdp1",
    "fsdp2",
    "fsdp2_clipped",
    "fsdp2_keep_gathered",
    "fsdp2_mixed",
    "fsdp2_offload",
    "tensor_parallel",
    "sequence_parallel",
    "pipeline_gpipe",
    "pipeline_1f1b",
    "pipeline_interleaved",
    "pipeline_zero_bubble",
]
