"""transformers' own models and Trainer, unmodified: the CPU's losses and tokens, bit for bit."""

import gc
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import transformers
from accelerate.utils import find_executable_batch_size
from torch.utils.checkpoint import checkpoint

import torch_trn

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "pad_token_id": 0,
}
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
VISION = {key: value for key, value in SMALL.items() if key not in ("vocab_size", "pad_token_id")} | {"image_size": 16}
TOKENS = torch.arange(24).reshape(2, 12) * 7 % 97 + 2
PADDED = (torch.arange(12) < torch.tensor([[12], [9]])).long()
IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
TEXT = {"input_ids": TOKENS, "attention_mask": PADDED, "labels": TOKENS}
PICTURES = {"pixel_values": IMAGES, "labels": torch.tensor([0, 1])}

MODELS = {
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 1},
        TEXT,
    ),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED, TEXT),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", GROUPED, TEXT),
    "MixtralForCausalLM": ("MixtralConfig", GROUPED | {"num_local_experts": 4}, TEXT),
    "MambaForCausalLM": (
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100, "state_size": 4},
        {"input_ids": TOKENS, "labels": TOKENS},
    ),
    "BertForMaskedLM": ("BertConfig", SMALL, TEXT),
    "DebertaV2ForMaskedLM": ("DebertaV2Config", SMALL | {"relative_attention": True, "pos_att_type": ["p2c"]}, TEXT),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
        | {"decoder_start_token_id": 0},
        TEXT,
    ),
    "ViTForImageClassification": ("ViTConfig", VISION | {"patch_size": 4}, PICTURES),
    "SwinForImageClassification": (
        "SwinConfig",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        PICTURES,
    ),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        PICTURES,
    ),
}


def train_and_generate(name: str, device: str) -> tuple[list[float], list[torch.Tensor], object]:
    config, options, inputs = MODELS[name]
    inputs = {key: value.to(device) for key, value in inputs.items()}
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**options)).to(device)
    model.eval()  # dropout draws per device
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    written = None
    if hasattr(model, "generate") and "Masked" not in name:
        del inputs["labels"]
        written = model.generate(**inputs, max_new_tokens=4, do_sample=False).tolist()
    return losses, [parameter.detach().cpu() for parameter in model.parameters()], written


@pytest.mark.parametrize("name", MODELS)
def test_models_train_and_generate(name: str, device: torch.device) -> None:
    losses, parameters, written = train_and_generate(name, "cpu")
    own_losses, own_parameters, own_written = train_and_generate(name, device.type)
    assert own_losses == losses and own_written == written
    assert losses[-1] < losses[0]
    for own, expected in zip(own_parameters, parameters, strict=True):
        assert torch.equal(own, expected)


def test_accelerate_finds_the_batch_size_that_fits(device: torch.device) -> None:
    tried = []

    def train(batch_size: int) -> int:
        tried.append(batch_size)
        with torch_trn.dry_run():
            model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(8))).to(device)
            x = torch.randn(batch_size << 14, 1024, device=device)
            for layer in model:
                x = x + checkpoint(layer, x, use_reentrant=False).relu()
            x.sum().backward()
        return batch_size

    assert find_executable_batch_size(train, starting_batch_size=64)() == tried[-1]
    assert 14 < tried[-1] < 24 and len(tried) > 5  # 64 MiB a sample for each of some 17 activations, on 24 GiB
    gc.collect()
    assert torch.get_device_module(device).memory_allocated() == 0


TRAINER = """
import os, torch, torch.distributed as dist, transformers

class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        tokens = (torch.arange(16) * (index + 1)) % 97
        return {"input_ids": tokens, "labels": tokens}

def trainer(**options):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                      intermediate_size=64, vocab_size=100)
    arguments = transformers.TrainingArguments(
        output_dir="out", per_device_train_batch_size=4, logging_steps=1, report_to=[], disable_tqdm=True, **options)
    return transformers.Trainer(
        transformers.LlamaForCausalLM(config), arguments, train_dataset=Texts(), eval_dataset=Texts())

def losses(made):
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]
"""

ALONE = """
saves = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
expected = trainer(use_cpu=True, max_steps=4, **saves)
expected.train()
own = trainer(max_steps=4, **saves)
own.train()
assert own.args.device.type == own.model.device.type == "neuron", own.args.device
assert losses(own) == losses(expected), (losses(own), losses(expected))
resumed = trainer(max_steps=6, bf16=True, gradient_checkpointing=True, **saves)
resumed.train(resume_from_checkpoint=True)
assert resumed.state.global_step == 6

import torch_neuronx
torch_neuronx.clear_op_tracking()
x = torch.ones(3, 3, device="neuron")
torch.linalg.qr(x @ x)
executed, fallen_back = torch_neuronx.get_executed_ops(), torch_neuronx.get_fallback_ops()
assert executed.count("aten::mm") == 1 and "aten::linalg_qr" in fallen_back, (executed, fallen_back)
assert torch_neuronx.memory_allocated() == torch.neuron.memory_allocated() > 0
try:
    torch_neuronx.trace
except AttributeError as error:
    assert "no hardware" in str(error)
else:
    raise AssertionError("torch_neuronx.trace is there")
print("done")
"""


def run(arguments, tmp_path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"TORCH_TRN_DEVICE_NAME": "neuron"} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_trainer_takes_the_device_called_neuron(tmp_path) -> None:
    assert "done" in run(["-c", TRAINER + ALONE], tmp_path)


JOB = """
made = trainer(max_steps=3, save_strategy="no", ddp_find_unused_parameters=False, use_cpu="ON_CPU" in os.environ)
made.train()
print(f"\\nrank {dist.get_rank()} on {made.args.device}: {losses(made)}")
dist.destroy_process_group()
"""
PROCESSES = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run_job(launcher, tmp_path, **environment: str) -> dict[str, list[float]]:
    """What each rank printed: its number and device, and its losses."""
    (tmp_path / "job.py").write_text(TRAINER + JOB)
    printed = run(["-m", *launcher, "job.py"], tmp_path, **environment)
    # Two processes write to one pipe: a line of one may end within a line of the other.
    ranks = re.findall(r"(rank \d on \w+:\d): (\[[^\]]*\])", printed)
    return {name: json.loads(losses) for name, losses in ranks}


def test_the_trainer_runs_on_two_ranks(tmp_path) -> None:
    expected = run_job(PROCESSES, tmp_path, ON_CPU="1")
    losses = expected["rank 0 on cpu:0"]
    assert len(losses) == 3 and expected == {"rank 0 on cpu:0": losses, "rank 1 on cpu:0": losses}
    for launcher in (PROCESSES, ["torch_trn.cli", "run", "--world-size", "2"]):
        assert run_job(launcher, tmp_path) == {"rank 0 on neuron:0": losses, "rank 1 on neuron:1": losses}


def test_under_its_own_name_the_device_is_no_neuron(tmp_path) -> None:
    code = "import importlib.util, torch; print(importlib.util.find_spec('torch_neuronx'), torch.ones(1, device='trn'))"
    assert run(["-c", code], tmp_path, TORCH_TRN_DEVICE_NAME="").startswith("None")
