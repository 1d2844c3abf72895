# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Times and memory of calls, as the benchmarks measure and print them."""

import contextlib
import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], Any]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_MMAP_THRESHOLD = 2**25  # up to which glibc raises it by itself, and the other one to twice as much


def measure(candidates: dict[str, Call], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call, all candidates taking turns, so that a slow moment meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, call in candidates.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            if turn > 0:
                times[name].append(time.perf_counter() - start)
    return times


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def extra_memory(call: Call, device: str, release: Call = lambda: None) -> float | None:
    """MiB by which memory rises at most while `call` runs, or `None` where that cannot be read. `release` gives back
    what earlier calls left for the next one, so that this counts too; not on a GPU, whose graphs of these calls would
    be recorded anew."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    clear_refs = Path("/proc/self/clear_refs")
    if not clear_refs.exists():
        return None
    call()  # buffers that the libraries keep are there from now on
    release()
    set_malloc(2**20, 0)  # what is freed goes back at once, and so does not blur the peak
    clear_refs.write_text("5")  # the peak starts anew
    before = resident_memory("VmRSS")
    try:
        call()
        return resident_memory("VmHWM") - before
    finally:
        set_malloc(LARGEST_MMAP_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)  # as in a process that has run for a while


def set_malloc(mmap_threshold: int, trim_threshold: int) -> None:
    """Sizes in bytes from which blocks are mapped one by one, and from which free memory goes back."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, mmap_threshold)
        library.mallopt(M_TRIM_THRESHOLD, trim_threshold)
        library.malloc_trim(0)


def resident_memory(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def difference(values: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the largest expected value."""
    return ((values - expected).abs().max() / expected.abs().max()).item()


def table(times: dict[str, list[float]], baseline: str) -> list[dict[str, Any]]:
    """Median and quartiles of the seconds, and the median as a multiple of the baseline's."""
    rows = []
    for name, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        ratio = median / statistics.median(times[baseline])
        rows.append({"name": name, "seconds": median, "quartiles": [low, high], "ratio": ratio})
    return rows


def markdown(results: dict[str, Any]) -> str:
    parts = []
    for title, rows in results.items():
        lines = [[title, *(key for key in rows[0] if key != "name")], ["---"] * len(rows[0])]
        lines += [[text(value) for value in row.values()] for row in rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(text, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
