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
LAUNCHER = {"ddp.py": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
PRINTED = {
    "hello.py": "trn:0 512.0",
    "gpt_stdlib.py": "--- sample ---",
    "cnn_digits.py": "test accuracy 9",
    "mixed_precision.py": "bfloat16",
    "ddp.py": "all ranks hold the same parameters: True",
    "checkpointing.py": "checkpointing True",
    "save_resume.py": "resumed",
    "three_targets.py": "trn3",
    "llama.py": "405B   126 layers",
    "capacity_plan.py": "Llama 3 8B, FSDP2",
}


def test_no_example_is_left_out():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_example_runs(name, tmp_path):
    run = subprocess.run(
        [sys.executable, *LAUNCHER.get(name, []), str(EXAMPLES / name), *ARGUMENTS.get(name, [])],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert PRINTED[name] in run.stdout
    assert name in (EXAMPLES / name).read_text().split('"""')[1], "the docstring says the command"
