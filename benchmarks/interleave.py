"""Times several variants in turns in one process, so that a busy machine slows all of them alike."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping


def interleave(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant, one entry a round; the order turns over every round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            for name in names if i % 2 == 0 else reversed(names):
                started = time.perf_counter()
                variants[name]()
                seconds[name].append(time.perf_counter() - started)
    finally:
        gc.enable()
    return seconds


def ratios(seconds: dict[str, list[float]], over: str, under: str) -> tuple[float, float]:
    """Ratio of the minima and median of the ratios round by round."""
    pairs = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    return min(seconds[over]) / min(seconds[under]), statistics.median(pairs)
