"""The `trn` command as a user starts it: scripts run as under python, and every ending has its report and exit code."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

STEP = """
    import sys, torch
    device = {device!r}
    model = torch.nn.Linear(8, 4).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def step():
        optimizer.zero_grad()
        model(torch.ones(16, 8, device=device)).sum().backward()
        optimizer.step()
"""
DEVICE = os.environ.get("TORCH_TRN_TEST_DEVICE", os.environ.get("TORCH_TRN_DEVICE_NAME", "trn"))
FLOPS_OF_A_STEP = 2 * 2 * 16 * 8 * 4  # forward and the weight's gradient


def trn(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch_trn.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Trains two steps, then does what its first argument says."""
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent(STEP).format(device=DEVICE) + "step()\nstep()\nexec(sys.argv[1])\n")
    return path


def test_a_script_runs_as_main_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    script = tmp_path / "main.py"
    script.write_text(
        "import sys, beside\nif __name__ == '__main__': print(sys.argv, sys.path[0], __file__, beside.VALUE)\n"
    )
    done = trn("run", "--quiet", script, "--lr", "3", "-h")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{[str(script), '--lr', '3', '-h']} {tmp_path} {script} 7"


def test_a_script_finds_what_lies_beside_it_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("beside")
    (tmp_path / "main.py").write_text(
        "import builtins, os\nos.chdir('/')\nassert __builtins__ is builtins\n"
        "print(open(os.path.join(os.path.dirname(__file__), 'data.txt')).read())\n"
    )
    done = trn("run", "--quiet", "main.py", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "beside"), done.stderr


def test_a_module_runs_with_m(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("import sys\nprint(__name__, sys.argv[1:])\n")
    done = trn("run", "--quiet", "-m", "tool", "--lr", "3", cwd=tmp_path)
    assert done.stdout.strip() == "__main__ ['--lr', '3']"


def test_the_report_follows_the_scripts_output(script: Path) -> None:
    done = trn("run", script, "print('bye')")
    assert done.returncode == 0, done.stderr
    said, report = done.stdout.split("torch_trn profile on", 1)
    assert said.strip() == "bye"
    assert "2 steps" in report and "Operators" in report and "\x1b" not in report


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        ("sys.exit(7)", 7, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('not today')", 1, "not today"),
        ("raise ValueError('boom')", 1, "ValueError: boom"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ],
)
def test_every_ending_has_its_exit_code_and_the_report(script: Path, ending: str, code: int, message: str) -> None:
    done = trn("run", script, ending)
    assert done.returncode == code
    assert message in done.stderr
    assert "2 steps" in done.stdout


def test_a_script_may_close_its_output(tmp_path: Path) -> None:
    script = tmp_path / "closes.py"
    script.write_text("import sys, torch\ntorch.ones(2, device='trn')\nsys.stdout.close()\nraise KeyError('mine')\n")
    done = trn("run", script)
    assert (
        done.returncode == 1
        and "KeyError: 'mine'" in done.stderr
        and "I/O operation" not in done.stderr.split("mine")[0]
    )


def test_the_traceback_is_the_scripts_own(script: Path) -> None:
    done = trn("run", "--quiet", script, "raise ValueError('boom')")
    frames = [line.split('"')[1] for line in done.stderr.splitlines() if line.lstrip().startswith("File")]
    assert frames == [str(script), "<string>"]


def test_ctrl_c_reports_what_ran(script: Path) -> None:
    forever = "print('ready', flush=True)\nwhile True: step()"
    child = subprocess.Popen(
        [sys.executable, "-m", "torch_trn.cli", "run", script, forever],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell has it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "KeyboardInterrupt" in err
    assert "torch_trn profile on" in out


def test_threads_that_outlive_the_script_are_counted(script: Path, tmp_path: Path) -> None:
    train = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
pool.submit(time.sleep, 0).result()
threading.idle_pool = pool  # its thread ends with Python
def train():
    time.sleep(0.3)
    print("in the thread")
    step()
    threading.Thread(target=step).start()
threading.Thread(target=train).start()
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
"""
    done = trn("run", "--report", tmp_path / "r.json", script, train)
    assert done.returncode == 0, done.stderr
    assert "in the thread" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["flops"] == 4 * FLOPS_OF_A_STEP


def test_files_are_written(script: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("report.html", "trace.json", "ledger.json.gz")}
    done = trn(
        "run", "--report", files["report.html"], "--trace", files["trace.json"], "--ledger", files["ledger.json.gz"],
        "-q", script, "import os; os.chdir('/')",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert files["report.html"].read_text().startswith("<!doctype html>")
    assert json.loads(files["trace.json"].read_text())["traceEvents"]
    again = trn("recost", files["ledger.json.gz"], "--json")
    assert json.loads(again.stdout)["flops"] == 2 * FLOPS_OF_A_STEP


def test_json_report(script: Path, tmp_path: Path) -> None:
    trn("run", "-q", "--report", tmp_path / "report.json", script, "0")
    assert json.loads((tmp_path / "report.json").read_text())["steps"] == 2


def test_steps_selects_training_steps_and_keeps_their_timeline(script: Path, tmp_path: Path) -> None:
    more = "for _ in range(4): step()"
    done = trn("run", "-q", "--steps", "3:5", "--ledger", tmp_path / "l.json", script, more)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "l.json").read_text())
    assert saved["steps"] == 2
    assert len(saved["timeline"]) == sum(entry["launches"] for entry in saved["entries"])


def test_steps_beyond_the_end_are_explained(script: Path) -> None:
    done = trn("run", "--steps", "9:10", script, "0")
    assert done.returncode == 0
    assert "The script made 2 training steps; --steps asked for 9:10." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "3:1"), "steps are first:end"),
        (("--mode", "fast"), "'fast' is not one of eager, compiled"),
        (("--report", "/no/such/folder/r.html"), "is not a directory"),
        (("--report", "/"), "/ is a directory; name a file in it."),
        (("--role", "1"), "give --dry-run and --world-size too"),
        (("--world-size", "2", "--role", "1"), "give --dry-run and --world-size too"),
        (("--prefix-output",), "give --world-size without --dry-run"),
    ],
)
def test_bad_options_are_named(script: Path, arguments: tuple[str, ...], message: str) -> None:
    done = trn("run", *arguments, script, "0", COLUMNS="200")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_missing_script_is_pythons_error_code() -> None:
    done = trn("run", "no_such_script.py")
    assert done.returncode == 2
    assert "can't open file 'no_such_script.py'" in done.stderr


def test_target_and_mode_are_taken(script: Path, tmp_path: Path) -> None:
    done = trn("run", "--target", "trn1", "--mode", "compiled", script, "0")
    assert "torch_trn profile on trn1, compiled" in done.stdout


def test_a_target_that_is_not_there_is_one_line(script: Path) -> None:
    done = trn("run", "--target", "nope", script, "0")
    assert done.returncode == 2
    assert done.stderr.startswith("trn run: [target] ") and done.stderr.count("\n") == 1, done.stderr


def test_targets_lists_all() -> None:
    done = trn("targets")
    assert done.returncode == 0
    for name in ("trn1", "trn2", "trn3", "inf2", "current: "):
        assert name in done.stdout


def test_ops_filters_by_family_and_status() -> None:
    rows = json.loads(trn("ops", "--json").stdout)
    assert {"name", "family", "engines", "overloads"} <= rows[0].keys()
    family = rows[0]["family"]
    some = json.loads(trn("ops", "--family", family, "--status", "native", "--json").stdout)
    assert [row["name"] for row in some] == [
        row["name"]
        for row in rows
        if row["family"] == family and "native" in [overload["torchneuron"] for overload in row["overloads"]]
    ]
    assert rows[0]["name"] in trn("ops", "--family", family).stdout
    unknown = trn("ops", "--family", "nonsense", COLUMNS="200")
    assert unknown.returncode == 2 and "'nonsense' is not one of" in unknown.stderr


def test_doctor_finds_this_installation_right() -> None:
    done = trn("doctor")
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout


def test_doctor_says_what_is_wrong_and_what_to_do() -> None:
    done = trn("doctor", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert done.returncode == 1
    assert "FAIL  autoload: switched off" in done.stdout
    assert "Unset TORCH_DEVICE_BACKEND_AUTOLOAD" in done.stdout


def test_recost_compares_targets(script: Path, tmp_path: Path) -> None:
    trn("run", "-q", "--ledger", tmp_path / "l.json", script, "0")
    both = trn("recost", tmp_path / "l.json", "--target", "trn1", "--target", "trn3")
    assert both.returncode == 0, both.stderr
    assert "trn1" in both.stdout and "trn3" in both.stdout
    one = trn("recost", tmp_path / "l.json", "--target", "trn3", "--mode", "compiled")
    assert "torch_trn profile on trn3, compiled" in one.stdout


def test_recost_of_no_ledger_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text("{}")
    done = trn("recost", tmp_path / "l.json")
    assert done.returncode == 1
    assert "JSON object with a schema number" in done.stderr


def test_version() -> None:
    done = trn("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("torch_trn ")
