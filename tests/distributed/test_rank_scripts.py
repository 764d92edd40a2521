"""`trn run --world-size`: a torchrun script on simulated ranks."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from torch_trn.cli import ranks_of

SCRIPT = """
import os, random, sys
import torch, torch.distributed as dist
import own_module

if __name__ == "__main__":
    assert sys.modules["__main__"].__dict__ is globals()
    dist.init_process_group()
    rank = dist.get_rank()
    model = torch.nn.Linear(4, 2).to("trn")
    dist.all_reduce(model.weight.detach())
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, (own_module.RANK, own_module.counted(), sys.argv[1:], len(sys.path)))
    if rank == 0:
        print(sorted(values)[-1])
    if "fail" in sys.argv and rank == 1:
        raise RuntimeError("no more data")
    if "leave" in sys.argv and rank == 1:
        sys.exit(7)
    dist.barrier()
"""
OWN_MODULE = """
import os
RANK = int(os.environ["RANK"])
calls = 0

def counted():
    global calls
    calls += 1
    return calls
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "own_module.py").write_text(OWN_MODULE)
    return tmp_path / "script.py"


def trn_run(script, *arguments, options=()):
    command = [sys.executable, "-m", "torch_trn.cli", "run", "--world-size", "3", *options, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(script).parent)


def test_a_script_runs_on_all_ranks(script, tmp_path):
    done = trn_run(script, "--lr", "1", options=["--prefix-output", "--report", str(tmp_path / "report.json")])
    assert done.returncode == 0, done.stderr
    assert "[rank 0] (2, 1, ['--lr', '1']" in done.stdout
    assert "torch_trn profile on trn2" in done.stdout and "3 ranks" in done.stdout
    assert (tmp_path / "report.json").exists()


def test_a_failing_rank_gives_the_exit_code(script):
    failed = trn_run(script, "fail", options=["-q"])
    assert failed.returncode == 1
    assert "RuntimeError on rank 1 of 3: no more data" in failed.stderr and "script.py" in failed.stderr
    assert trn_run(script, "leave", options=["-q"]).returncode == 7


def test_wrong_options(script):
    done = subprocess.run(
        [sys.executable, "-m", "torch_trn.cli", "run", "--world-size", "0", str(script)], capture_output=True, text=True
    )
    assert done.returncode == 2 and "limit 1 to 128" in done.stderr


def test_ranks_of_an_option():
    assert [ranks_of(text, 64) for text in ("8", "0:4", "0:64:16")] == [[8], [0, 1, 2, 3], [0, 16, 32, 48]]
    for text in ("64", "0:65", "3:3", "first", "0:4:0", "-1"):
        with pytest.raises(typer.BadParameter, match="no rank of 64"):
            ranks_of(text, 64)


RELAY = """
import torch, torch.distributed as dist

dist.init_process_group()
rank, last, box = dist.get_rank(), dist.get_world_size() - 1, torch.ones(512, 512, device="trn")
for _ in range(8):
    if rank > 0:
        dist.recv(box, rank - 1)
    box @= box
    if rank < last:
        dist.send(box, rank + 1)
print("stage", rank)
"""


def test_stages_of_a_pipeline_as_roles(tmp_path):
    (tmp_path / "relay.py").write_text(RELAY)
    options = ["--dry-run", "--role", "0:2", "--role", "2", "--report", str(tmp_path / "report.json")]
    done = trn_run(tmp_path / "relay.py", options=options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("stage 0\nstage 1\nstage 2\n")
    assert "3 of its ranks ran" in done.stdout and "share" in done.stdout
    assert (tmp_path / "report.json").exists()
    refused = trn_run(tmp_path / "relay.py", options=["--dry-run", "--role", "0:2", "--steps", "1:2"])
    assert refused.returncode == 2 and "neither --steps nor --trace" in refused.stderr
