"""Llama 3 in plain PyTorch: the published shapes, and the ways to spread it over devices.

    python examples/llama.py

Prints the sizes of the three models, which are made without memory. capacity_plan.py plans their training.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Config:
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int = 128256
    rope_base: float = 500000.0
    norm_epsilon: float = 1e-5


# "The Llama 3 Herd of Models", arXiv 2407.21783, table 3.
CONFIGS = {
    "8b": Config(layers=32, width=4096, heads=32, kv_heads=8, hidden=14336),
    "70b": Config(layers=80, width=8192, heads=64, kv_heads=8, hidden=28672),
    "405b": Config(layers=126, width=16384, heads=128, kv_heads=8, hidden=53248),
}


def rotation(tokens: int, head_width: int, base: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of every position and frequency, each [tokens, head_width]."""
    frequencies = base ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(tokens, device=device, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """[batch, heads, tokens, head_width], the two halves of a head as real and imaginary parts."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.head_width = config.width // config.heads
        self.wq = nn.Linear(config.width, config.heads * self.head_width, bias=False)
        self.wk = nn.Linear(config.width, config.kv_heads * self.head_width, bias=False)
        self.wv = nn.Linear(config.width, config.kv_heads * self.head_width, bias=False)
        self.wo = nn.Linear(config.heads * self.head_width, config.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        # Heads by their width: under tensor parallelism a rank has a part of them.
        q, k, v = (w(x).view(batch, tokens, -1, self.head_width).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.wo(y.transpose(1, 2).reshape(batch, tokens, -1))
        return out


class FeedForward(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.w1 = nn.Linear(config.width, config.hidden, bias=False)
        self.w2 = nn.Linear(config.hidden, config.width, bias=False)
        self.w3 = nn.Linear(config.width, config.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.ffn = FeedForward(config)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        y: torch.Tensor = x + self.ffn(self.ffn_norm(x))
        return y


class Llama(nn.Module):
    """Layers `first` to `end` of the model; the embedding belongs to the first, norm and head to the last."""

    def __init__(self, config: Config, first: int = 0, end: int | None = None, recompute: bool = False):
        super().__init__()
        end = config.layers if end is None else end
        self.config, self.recompute, self.num_sequence_parts = config, recompute, 1
        self.embedding = nn.Embedding(config.vocabulary, config.width) if first == 0 else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(first, end))
        is_last = end == config.layers
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon) if is_last else None
        self.head = nn.Linear(config.width, config.vocabulary, bias=False) if is_last else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [batch, tokens], or the layer before's [batch, tokens, width]; logits, or this layer's."""
        config = self.config
        tokens = x.shape[1] if self.embedding is not None else x.shape[1] * self.num_sequence_parts
        if self.embedding is not None:
            x = self.embedding(x)
        cos, sin = rotation(tokens, config.width // config.heads, config.rope_base, x.device)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for block in self.blocks:
            if self.recompute and self.training:
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin)
        if self.norm is not None and self.head is not None:
            x = self.head(self.norm(x))
        return x


def loss_of(logits: torch.Tensor, targets: torch.Tensor, chunks: int = 8) -> torch.Tensor:
    """Cross entropy; the logits, [batch, tokens, vocabulary], are in float32 one chunk of tokens at a time."""

    def part(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.float(), targets, reduction="sum")

    pairs = zip(logits.flatten(0, 1).chunk(chunks), targets.flatten().chunk(chunks), strict=True)
    total: torch.Tensor = sum(checkpoint(part, x, y, use_reentrant=False) for x, y in pairs)
    return total / targets.numel()


def shard(
    model: Llama, mesh: DeviceMesh | None = None, reshard: bool = True, reduce_dtype: torch.dtype = torch.float32
) -> Llama:
    """FSDP2: each block is gathered when it runs, in bfloat16; parameters and gradients stay in float32 shards."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduce_dtype)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
    return fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)


def sharded_on(device: torch.device, config: Config, recompute: bool = True) -> Llama:
    """The model over all ranks: made without memory, sharded, then given the device's memory for its shards."""
    with torch.device("meta"):
        model = Llama(config, recompute=recompute)
    mesh = dist.init_device_mesh(device.type, (dist.get_world_size(),))
    model = shard(model, mesh)
    model.to_empty(device=device)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model


def split_heads(model: Llama, mesh: DeviceMesh) -> Llama:
    """Tensor and sequence parallelism: a rank has a part of the heads and hidden units, between them of the tokens."""
    plan: dict[str, ParallelStyle] = {
        "attention_norm": SequenceParallel(),
        "attention": PrepareModuleInput(
            input_layouts=(Shard(1), None, None), desired_input_layouts=(Replicate(), None, None)
        ),
        **{f"attention.{name}": ColwiseParallel() for name in ("wq", "wk", "wv")},
        "attention.wo": RowwiseParallel(output_layouts=Shard(1)),
        "ffn_norm": SequenceParallel(),
        "ffn": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
        **{f"ffn.{name}": ColwiseParallel() for name in ("w1", "w3")},
        "ffn.w2": RowwiseParallel(output_layouts=Shard(1)),
    }
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    ends: dict[str, ParallelStyle] = {}
    if model.embedding is not None:
        ends["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
    if model.head is not None:
        ends |= {
            "norm": SequenceParallel(),
            "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
        }
    model.num_sequence_parts = mesh.size()
    return parallelize_module(model, mesh, ends) if ends else model


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: int, tokens: int, vocabulary: int) -> None:
    """One step on random tokens of the model's device."""
    device = next(model.parameters()).device
    ids = torch.randint(vocabulary, (batch, tokens + 1), device=device)
    loss_of(model(ids[:, :-1]), ids[:, 1:]).backward()
    optimizer.step()
    optimizer.zero_grad()


def pipeline_step(config: Config, stages: int, tensor: int, microbatches: int, tokens: int) -> None:
    """A rank's part of one step of data x pipeline x tensor parallelism, in a job that has no process group yet.

    1F1B over `microbatches` sequences of `tokens` for each replica, every block recomputed.
    """
    dist.init_process_group()
    device = torch.device("trn", torch.accelerator.current_device_index())
    replicas = dist.get_world_size() // stages // tensor
    mesh = dist.init_device_mesh("trn", (replicas, stages, tensor), mesh_dim_names=("data", "pipeline", "tensor"))
    stage = mesh.get_local_rank("pipeline")
    is_first, is_last = stage == 0, stage == stages - 1
    # Beside the embedding, and the head, is one layer less.
    bounds = [0, *((config.layers + 2) * i // stages - 1 for i in range(1, stages)), config.layers]
    with torch.device("meta"):
        hidden = torch.empty(1, tokens // tensor, config.width, dtype=torch.bfloat16, requires_grad=True)
        ids = torch.empty(1, tokens, dtype=torch.int64)
        logits = torch.empty(1, tokens, config.vocabulary, dtype=torch.bfloat16, requires_grad=True)
        model = Llama(config, bounds[stage], bounds[stage + 1], recompute=True)
    split_heads(model, mesh["tensor"])
    shard(model, mesh["data"], reshard=False, reduce_dtype=torch.bfloat16)
    model.to_empty(device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    runner = Schedule1F1B(
        PipelineStage(
            model,
            stage,
            stages,
            device,
            input_args=ids if is_first else hidden,
            output_args=logits if is_last else hidden,
            group=mesh.get_group("pipeline"),
        ),
        microbatches,
        loss_of,
    )
    ids = torch.randint(config.vocabulary, (microbatches, tokens + 1), device=device)
    runner.step(*([ids[:, :-1]] if is_first else []), target=ids[:, 1:] if is_last else None, return_outputs=False)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    for name, config in CONFIGS.items():
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in Llama(config).parameters())
        print(f"Llama 3 {name.upper():5} {config.layers:4} layers {parameters / 1e9:8.2f} billion parameters")


if __name__ == "__main__":
    main()
