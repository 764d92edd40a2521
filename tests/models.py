"""Small models whose FLOPs have closed forms, and the batches they train on."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Causal self-attention over [batch, tokens, width], fused or written out."""

    def __init__(self, width: int, heads: int, fused: bool):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = (t.view(batch, tokens, self.heads, -1).transpose(1, 2) for t in self.qkv(x).split(width, dim=2))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
            mask = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).tril()
            y = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        out: torch.Tensor = self.out(y.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int, fused: bool):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, fused)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        y: torch.Tensor = x + self.mlp(self.norm2(x))
        return y


class GPT(nn.Module):
    """Token and position embeddings, blocks, and a head that shares the embedding's weight."""

    def __init__(
        self,
        vocabulary: int = 65,
        tokens: int = 32,
        width: int = 48,
        heads: int = 3,
        layers: int = 2,
        fused: bool = True,
    ):
        super().__init__()
        self.vocabulary, self.tokens, self.width, self.heads, self.layers = vocabulary, tokens, width, heads, layers
        self.tok, self.pos = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, heads, fused) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tok.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits

    def forward_flops(self, batch: int) -> int:
        """Two per multiply-add: four projections, two MLP layers (8 width^2), scores and values, the head."""
        rows = batch * self.tokens
        linear = 2 * rows * self.layers * (4 + 8) * self.width**2
        attention = 2 * 2 * self.layers * batch * self.tokens**2 * self.width
        return linear + attention + 2 * rows * self.width * self.vocabulary


class CNN(nn.Module):
    """Two convolutions with batch norm and pooling, then two linear layers; [batch, 1, 8, 8] in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.fc1, self.fc2 = nn.Linear(16 * 4 * 4, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        logits: torch.Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits

    def layer_flops(self, batch: int) -> list[int]:
        """Forward FLOPs per layer, first layer first: 2 * batch * output pixels * out * in * taps."""
        return [
            2 * batch * 64 * 8 * 1 * 9,
            2 * batch * 64 * 16 * 8 * 9,
            2 * batch * 256 * 32,
            2 * batch * 32 * 10,
        ]


def mlp(sizes: tuple[int, ...] = (20, 64, 64, 10)) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(a, b)] + ([nn.ReLU()] if i + 2 < len(sizes) else [])
    return nn.Sequential(*layers)


def gpt_batch(step: int, batch: int = 4, model: GPT | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    vocabulary, tokens = (model.vocabulary, model.tokens) if model else (65, 32)
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(vocabulary, (batch, tokens + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def image_batch(step: int, batch: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(batch, 1, 8, 8, generator=generator), torch.randint(10, (batch,), generator=generator)


def vector_batch(step: int, batch: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(batch, 20, generator=generator), torch.randint(10, (batch,), generator=generator)


Batch = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
MODELS: dict[str, tuple[Callable[[], nn.Module], Batch]] = {
    "gpt": (lambda: GPT(fused=True), gpt_batch),
    "gpt with explicit attention": (lambda: GPT(fused=False), gpt_batch),
    "cnn": (CNN, image_batch),
    "mlp": (mlp, vector_batch),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-4, foreach=False),
    "sgd momentum foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-4, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, foreach=False),
    "adam foreach": lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
    "adam fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=False),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
}


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    logits = model(x)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))


def sgd_losses(model: nn.Module, x: torch.Tensor, y: torch.Tensor, learning_rate: float, steps: int) -> list[float]:
    """The mean squared error before each step of plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    history = []
    for _ in range(steps):
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def regression_losses(steps: int) -> list[float]:
    """Of a small perceptron on the device, always the same one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1)).to("trn")
    x = torch.randn(256, 20).to("trn")
    return sgd_losses(model, x, x.sum(1, keepdim=True).tanh(), 0.05, steps)
