"""A worker process: reads one cell a line from standard input, checks it, writes one outcome a line."""

import faulthandler
import gc
import importlib
import json
import os
import sys
import time
import traceback

import torch
from opinfo import cells, op_cells
from opinfo.cells import Cell, Outcome


def check(cell: Cell, device: torch.device) -> Outcome:
    from opinfo import hardware_cells, honesty_cells, module_cells, optim_cells

    checks = {
        "op": op_cells.check_op,
        "error": op_cells.check_error,
        "foreach": op_cells.check_foreach,
        "module": module_cells.check_module,
        "optim": optim_cells.check_optimizer,
        "honesty": honesty_cells.check_honesty,
        "hardware": hardware_cells.check_hardware,
    }
    started = time.perf_counter()
    try:
        outcome = checks[cell.suite](cell, device)
    except Exception:
        outcome = Outcome(failures=["the check itself failed: " + traceback.format_exc(limit=-4)])
    outcome.seconds = time.perf_counter() - started
    return outcome


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.enable()
    torch.set_num_threads(1)
    torch.set_warn_always(True)
    if sys.argv[1] != "cpu":
        importlib.import_module("torch_trn")
    device = torch.device(sys.argv[1])
    cells.ops()
    op_cells.remove_seeding()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        outcome = check(Cell(*json.loads(line)), device)
        replies.write(json.dumps(outcome.to_dict()) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
