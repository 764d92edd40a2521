"""Every example runs from top to bottom as its first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = {
    "gpt_stdlib.py": ["--steps", "6"],
    "capacity_plan.py": ["--model", "8b", "--tokens", "256", "trn2-ultraserver:1"],
}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RANKS = ["-m", "torch_trn.cli", "run", "--world-size", "4"]
LAUNCHER = {"ddp.py": TORCHRUN, "fsdp2.py": RANKS, "tensor_parallel.py": RANKS, "pipeline.py": RANKS}
PRINTED = {
    "hello.py": "trn:0 512.0",
    "gpt_stdlib.py": "--- sample ---",
    "cnn_digits.py": "test accuracy 9",
    "mixed_precision.py": "bfloat16",
    "ddp.py": "all ranks hold the same parameters: True",
    "fsdp2.py": "reduce_scatter_tensor: 5 calls in a step",
    "tensor_parallel.py": "as on one device: True",
    "pipeline.py": "a step sends 8 activations on and gets 8 gradients back",
    "checkpointing.py": "checkpointing True",
    "save_resume.py": "resumed",
    "three_targets.py": "trn3",
    "llama.py": "405B   126 layers",
    "capacity_plan.py": "Llama 3 8B, FSDP2",
}


def test_no_example_is_left_out():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED)


def launches():
    """Every example; those of several ranks in processes of their own or in one, one of them both ways."""
    return [*((name, LAUNCHER.get(name, [])) for name in sorted(PRINTED)), ("ddp.py", RANKS)]


@pytest.mark.parametrize(("name", "launcher"), launches())
def test_example_runs(name, launcher, tmp_path):
    run = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / name), *ARGUMENTS.get(name, [])],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert PRINTED[name] in run.stdout
    assert name in (EXAMPLES / name).read_text().split('"""')[1], "the docstring says the command"
