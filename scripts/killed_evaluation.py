# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Draws and scores many pictures twice, once killed and resumed, and measures the memory of both.

    python scripts/killed_evaluation.py MODEL --num_pictures 20000 --output_dir runs/killed-evaluation \
        --record docs/results/selection/killed-evaluation.json --reference stats.safetensors \
        --feature_extractor efficientnet_lite0 --precision_recall

It starts `scripts/evaluate.py samples`, ends it with SIGKILL when a part of the pictures is there, and starts the same
command again, which goes on to the end. Another run in another folder is left alone. The figures must be equal to the
last bit, and the memory within `--limit_gib`; if not, that is an error. Memory is the resident set of the process and
all that it started, added up ten times a second, or where that is more the largest that the system counted of one
process. Further flags are handed to `evaluate.py samples`. One thread each.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from study import SCRIPTS

from rq_hf.command_line import positive
from rq_hf.metrics import write_json

GIB = 2**30


@dataclass
class Ended:
    """A process that has ended.

    Args:
        returncode: minus the signal's number where one ended it.
        peak_bytes: the most memory that it and what it started had at once.
        seconds: from its start to its end.
    """

    returncode: int
    peak_bytes: int
    seconds: float


def watch(command: list[str], log: Path, kill_at: int | None = None, parts: Path | None = None) -> Ended:
    """Runs a command to its end, or kills it.

    Args:
        command: its words.
        log: file to which its output is appended.
        kill_at: number of files in `parts` at which it gets SIGKILL; never by default.
        parts: folder of the parts of an evaluation.
    """
    environment, started, peak = {**os.environ, "OMP_NUM_THREADS": "1"}, time.monotonic(), 0
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        while True:
            peak = max(peak, resident_bytes(process.pid))
            if kill_at is not None and len(list(parts.glob("[0-9]*.safetensors"))) >= kill_at:
                process.send_signal(signal.SIGKILL)
                kill_at = None
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.1)
    finally:
        if process.returncode is None:  # somebody interrupted this one
            process.kill()
    peak = max(peak, usage.ru_maxrss * 1024)  # KiB on Linux
    return Ended(process.returncode, peak, time.monotonic() - started)


def resident_bytes(pid: int) -> int:
    """Memory of a process and all that it started; 0 where it has ended."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for each in family:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def compare(options: argparse.Namespace, more_flags: list[str]) -> dict[str, Any]:
    """The three runs; returns their record.

    Raises:
        `RuntimeError`: a run failed, ended before it was killed, or gave other figures or took more memory than it
            may.
    """
    options.output_dir.mkdir(parents=True, exist_ok=True)
    log = options.output_dir / "evaluation.log"
    count = ["--num_pictures", str(options.num_pictures), "--batch_size", str(options.batch_size)]
    command = [sys.executable, str(SCRIPTS / "evaluate.py"), "samples", str(options.model), *count, *more_flags]
    outputs = {name: options.output_dir / f"{name}.json" for name in ("killed", "alone")}
    total = -(-options.num_pictures // options.batch_size)
    kill_at, parts = max(1, int(total * options.kill_after)), options.output_dir / "killed-parts"
    killed = watch([*command, "--output", str(outputs["killed"])], log, kill_at, parts)
    if killed.returncode != -signal.SIGKILL or outputs["killed"].exists():
        raise RuntimeError(f"The run should have been killed, it ended with {killed.returncode}, see {log}.")
    left = len(list(parts.glob("[0-9]*.safetensors")))
    ended = {name: watch([*command, "--output", str(path)], log) for name, path in outputs.items()}
    if any(run.returncode != 0 for run in ended.values()):
        raise RuntimeError(f"A run failed, see {log}.")
    figures = {name: json.loads(path.read_text(encoding="utf-8"))["metrics"] for name, path in outputs.items()}
    if figures["killed"] != figures["alone"]:
        raise RuntimeError(f"The figures must be equal, got {figures}.")
    ended = {"until it was killed": killed, "resumed": ended["killed"], "left alone": ended["alone"]}
    peak = max(run.peak_bytes for run in ended.values())
    if peak > options.limit_gib * GIB:
        raise RuntimeError(f"Memory must stay within {options.limit_gib:g} GiB, got {peak / GIB:.2f} GiB.")
    return {
        "model": options.model.name,
        "num_pictures": options.num_pictures,
        "batch_size": options.batch_size,
        "flags": more_flags,
        "parts": total,
        "parts_when_killed": left,
        "peak_gib": {name: round(run.peak_bytes / GIB, 3) for name, run in ended.items()},
        "limit_gib": options.limit_gib,
        "minutes": {name: round(run.seconds / 60, 2) for name, run in ended.items()},
        "metrics": figures["killed"],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a pipeline")
    parser.add_argument("--num_pictures", type=positive, default=20_000)
    parser.add_argument("--batch_size", type=positive, default=50)
    parser.add_argument("--kill_after", type=float, default=0.4, help="part of the pictures, in (0, 1) (%(default)s)")
    parser.add_argument("--limit_gib", type=float, default=4.0, help="memory that a run may take (%(default)s)")
    parser.add_argument("--output_dir", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--record", type=Path, required=True, help="JSON file of what came out")
    options, more_flags = parser.parse_known_args(argv)
    if not 0 < options.kill_after < 1:
        raise ValueError(f"`--kill_after` must be in (0, 1), got {options.kill_after}.")
    if options.output_dir.exists() and any(options.output_dir.iterdir()):
        raise ValueError(f"`--output_dir` must be a new or empty folder, got '{options.output_dir}'.")
    record = compare(options, more_flags)
    options.record.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.record, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
