# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the studies share: runs that differ in one thing each, which are trained and measured once, one thread each.

A run leaves a record of a few kilobytes in `docs/results/`. What has a record is not run again, on another machine
either, so that a study of many hours can be made piece by piece; records are what the tables and plots come from.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rq_hf.metrics import write_text

SCRIPTS = Path(__file__).resolve().parent
_running: set[subprocess.Popen] = set()


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Args:
        study: its name.
        name: of this kind of run.
        seed: of the training.
    """

    study: str
    name: str
    seed: int

    @property
    def path(self) -> Path:
        """Relative place of its folder, and with a suffix of its record and logs."""
        slug = self.name.lower().replace(", ", "-").replace(" ", "")
        return Path(self.study, f"{slug}-seed{self.seed}")

    def file(self, output_dir: Path, suffix: str) -> Path:
        """A file beside its folder; the dots of a name are no suffix."""
        folder = output_dir / self.path
        return folder.with_name(folder.name + suffix)

    def __str__(self) -> str:
        return f"{self.study}: {self.name}, seed {self.seed}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every study takes."""
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--docs", type=Path, default=SCRIPTS.parent / "docs", help="where records and pictures go")


def read_record(run: Run, records: Path) -> dict[str, Any] | None:
    """What was measured of a run, or `None` where it is not finished."""
    path = run.file(records, ".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def perform(runs: Iterable[Run], records: Path, jobs: int, train_and_measure: Callable[[Run], dict[str, Any]]) -> None:
    """Trains and measures the runs that have no record, so many at a time, and writes their records."""

    def once(run: Run) -> None:
        path = run.file(records, ".json")
        if path.exists():
            print(f"{run}: has the record {path}, not run again", flush=True)
            return
        record = {"study": run.study, "name": run.name, "seed": run.seed, **train_and_measure(run)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(record, indent=1) + "\n")  # a stump would count as finished
        print(f"{run}: done", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(once, runs))


def end_with_children() -> None:
    """From here on SIGTERM ends what [`start`] has started, too: it would go on, and meet the next one that does."""

    def end(signum, frame):
        for process in list(_running):
            process.terminate()
        sys.exit(128 + signum)

    signal.signal(signal.SIGTERM, end)


def start(
    script: str,
    arguments: Iterable[Any],
    flags: dict[str, Any],
    log: Path,
    cpu_seconds: Path | None = None,
    more_flags: Sequence[str] = (),
) -> None:
    """Runs a script of this folder to its end, one thread.

    Args:
        script: its name.
        arguments: before the flags.
        flags: names without dashes, and values.
        log: file to which its output is appended.
        cpu_seconds: file of the seconds that all attempts took that came to an end; these are added.
        more_flags: words of a user's command line, which win over `flags`.

    Raises:
        `ValueError`: these name the place of the output.
        `RuntimeError`: it failed.
    """
    if taken := {"--output", "--output_dir"} & {word.partition("=")[0] for word in more_flags}:
        raise ValueError(f"{sorted(taken)[0]} must be left to the study, got {' '.join(more_flags)}.")
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments), *as_flags(flags), *more_flags]
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    _running.add(process)
    _, status, usage = os.wait4(process.pid, 0)
    _running.discard(process)
    process.returncode = os.waitstatus_to_exitcode(status)
    if cpu_seconds is not None:
        before = json.loads(cpu_seconds.read_text()) if cpu_seconds.exists() else 0.0
        write_text(cpu_seconds, json.dumps(before + usage.ru_utime + usage.ru_stime))
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}, see {log}.")


def as_flags(flags: dict[str, Any]) -> list[str]:
    """Command-line words of them."""
    return [word for name, value in flags.items() for word in (f"--{name}", as_text(value))]


def as_text(value: Any) -> str:
    return str(value) if isinstance(value, (str, Path)) else json.dumps(value)


def cpu_minutes(cpu_seconds: Path) -> float | None:
    """Minutes of the file that [`start`] writes."""
    return json.loads(cpu_seconds.read_text()) / 60 if cpu_seconds.exists() else None


def trainer_state(folder: Path) -> dict[str, Any]:
    """Steps, epochs and `log_history` of a training.

    Args:
        folder: of a finished training, or of a checkpoint.

    Raises:
        `ValueError`: there is no `trainer_state.json`, or another content.
    """
    path = folder / "trainer_state.json"
    if not path.exists():
        raise ValueError(
            f"A finished training or a checkpoint must have a trainer_state.json, got none in '{folder}'."
        )
    state = json.loads(path.read_text(encoding="utf-8"))
    kinds = {"global_step": int, "epoch": (int, float), "log_history": list}
    if not isinstance(state, dict) or not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"A trainer_state.json must have {', '.join(kinds)} of a training, got '{path}' without.")
    return state


def log_history(folder: Path) -> list[dict[str, Any]]:
    """What it logged."""
    return trainer_state(folder)["log_history"]


def spread(values: list[float], digits: int) -> str:
    """The mean, and behind it each value."""
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{statistics.mean(values):.{digits}f} ({each})" if len(values) > 1 else each


def by_name(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records of each kind of run, in their order."""
    return {
        name: [record for record in records if record["name"] == name]
        for name in dict.fromkeys(record["name"] for record in records)
    }
