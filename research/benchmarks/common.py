# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Times variants of one computation against each other, each in a process of its own.

The processes take turns, round after round, so that a slow moment of the machine meets all of them. A process can have
its own environment, its own compiler cache and its own version of rq_hf, which one process could not.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], Any]
Settings = dict[str, Any]

_CLASSES = {"vocab_size": 1000, "condition_length": 1, "code_shape": [8, 8, 4], "codebook_dim": 256}
_PAPER = _CLASSES | {"codebook_size": 16384, "hidden_size": 1536, "num_attention_heads": 24}
_FIGURE_4 = _CLASSES | {"codebook_size": 4096, "hidden_size": 384, "num_attention_heads": 6}
# Fields of `RQTransformerConfig` (Table 5).
MODELS: dict[str, Settings] = {
    "tiny": {
        "vocab_size": 16, "condition_length": 4, "code_shape": [2, 2, 2], "codebook_size": 32, "codebook_dim": 8,
        "hidden_size": 16, "num_attention_heads": 2, "num_spatial_layers": 2, "num_depth_layers": 1,
    },
    "8M": {
        "vocab_size": 1024, "condition_length": 16, "code_shape": [8, 8, 4], "codebook_size": 1024, "codebook_dim": 64,
        "hidden_size": 256, "num_attention_heads": 8, "num_spatial_layers": 6, "num_depth_layers": 2,
    },
    "480M": _PAPER | {"num_spatial_layers": 12, "num_depth_layers": 4},
    "654M": {
        "vocab_size": 16384, "condition_length": 32, "code_shape": [8, 8, 4], "codebook_size": 16384,
        "codebook_dim": 256, "hidden_size": 1280, "num_attention_heads": 20, "num_spatial_layers": 26,
        "num_depth_layers": 4,
    },
    "1.4B": _PAPER | {"num_spatial_layers": 42, "num_depth_layers": 6},
    # Figure 4: the same size and as many blocks, with long code maps of depth 1.
    "1.4B-16x16x1": _PAPER | {"code_shape": [16, 16, 1], "num_spatial_layers": 48, "num_depth_layers": 0},
    "384": _FIGURE_4 | {"num_spatial_layers": 42, "num_depth_layers": 6},
    "384-16x16x1": _FIGURE_4 | {"code_shape": [16, 16, 1], "num_spatial_layers": 48, "num_depth_layers": 0},
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One of the computations that are compared.

    Args:
        name: its row in the table.
        settings: what the script's `prepare` needs to build the call; it must fit into JSON.
        library: root of the checkout whose `src/rq_hf` the process imports; `None` for the installed one.
        environment: variables added to those of this process.
    """

    name: str
    settings: Settings
    library: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


class Worker:
    """A process that holds one prepared call and runs it when it is asked to."""

    def __init__(self, script: str, variant: Variant, cache_folder: str):
        self.name = variant.name
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache_folder} | variant.environment
        if variant.library is not None:
            paths = [str(variant.library / "src"), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, script, "--worker", json.dumps(variant.settings)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, command: str) -> float | None:
        """Runs the call once and returns its `"seconds"` or `"mib"`."""
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> float | None:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process of '{self.name}' ended with exit status {self.process.wait()}.")
        return json.loads(line)


def compare(script: str, variants: Sequence[Variant], rounds: int) -> list[dict[str, Any]]:
    """Prepares all variants one after the other, times them in turns, then measures their memory.

    Returns:
        A row for each variant: `name`, the median `seconds`, their `quartiles`, and `extra_mib`, by which the memory
        rises while the call runs.
    """
    with ExitStack() as stack:
        workers = []
        for variant in variants:
            print(f"preparing {variant.name}", file=sys.stderr)
            cache_folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rq_hf-benchmark-"))
            workers.append(stack.enter_context(Worker(script, variant, cache_folder)))
            workers[-1].answer()  # the call has run once
        times: dict[str, list[float]] = {worker.name: [] for worker in workers}
        for _ in range(rounds):
            for worker in workers:
                times[worker.name].append(worker.ask("seconds"))
        memory = {worker.name: worker.ask("mib") for worker in workers}
    rows = []
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else taken * 3
        rows.append({"name": name, "seconds": median, "quartiles": [low, high], "extra_mib": memory[name]})
    return rows


def serve(prepare: Callable[[Settings], Call], settings: Settings) -> None:
    """The worker's side: prepares the call, runs it once to warm up, then answers commands until its input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print
    device = settings["device"]
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    call = prepare(settings)
    call()
    measures = {"seconds": seconds, "mib": extra_memory}
    print(json.dumps(None), file=answers, flush=True)
    for command in sys.stdin:
        print(json.dumps(measures[command.strip()](call, device)), file=answers, flush=True)


def seconds(call: Call, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def extra_memory(call: Call, device: str) -> float | None:
    """MiB by which memory rises at most while `call` runs, or `None` where the system does not tell."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    clear_refs = Path("/proc/self/clear_refs")
    if not clear_refs.exists():
        return None
    return_freed_memory()
    clear_refs.write_text("5")  # the recorded peak starts anew
    before = resident_memory("VmRSS")
    call()
    return resident_memory("VmHWM") - before


def return_freed_memory() -> None:
    """From now on glibc gives freed blocks back to the system at once, so that they do not blur the peak."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-3, 2**20)  # M_MMAP_THRESHOLD
        library.mallopt(-1, 0)  # M_TRIM_THRESHOLD
        library.malloc_trim(0)


def resident_memory(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def add_ratios(rows: list[dict[str, Any]], baselines: Sequence[str], faster: bool = False) -> None:
    """Adds to each row its time as a multiple of each baseline that was run, or how many times faster it is."""
    medians = {row["name"]: row["seconds"] for row in rows}
    for baseline in baselines:
        if baseline in medians:
            for row in rows:
                ratio = row["seconds"] / medians[baseline]
                row[f"times faster than {baseline}" if faster else f"times {baseline}"] = (
                    1 / ratio if faster else ratio
                )


def markdown(title: str, rows: list[dict[str, Any]]) -> str:
    lines = [[title, *list(rows[0])[1:]], ["---"] * len(rows[0])]
    lines += [[_cell(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_cell, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def common_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="PATH", help="checkout of kakaobrain/rq-vae-transformer")
    parser.add_argument("--base", type=Path, metavar="PATH", help="an earlier checkout of this repository")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each variant (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="also writes the results here")
    return parser


def common_settings(arguments: argparse.Namespace) -> Settings:
    """What every worker needs to know."""
    return {"device": arguments.device, "threads": arguments.threads}


def report(arguments: argparse.Namespace, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Prints tables and writes them with what identifies the run."""
    print("\n\n".join(markdown(title, rows) for title, rows in tables.items()))
    if arguments.output is None:
        return
    if arguments.device.startswith("cuda"):
        processor = torch.cuda.get_device_name(arguments.device)
    else:
        processor = f"{processor_name()}, {arguments.threads} threads"
    checkouts = {"rq_hf": Path(__file__).parent, "base": arguments.base, "official": arguments.official}
    described = {
        "script": Path(sys.argv[0]).name,
        "options": {key: value for key, value in vars(arguments).items() if not isinstance(value, Path)},
        "commits": {name: commit(path) for name, path in checkouts.items() if path is not None},
        "processor": processor,
        "versions": {name: version(name) for name in ("rq_hf", "torch", "transformers", "diffusers")},
        "tables": tables,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def commit(checkout: Path) -> str | None:
    """The commit of a checkout, with "-dirty" where files differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return described.stdout.strip() or None


def processor_name() -> str:
    """The maker's name where the system tells it; libraries choose their kernels by it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def run(main: Callable[[], None], prepare: Callable[[Settings], Call]) -> None:
    """The entry point of a script, for both sides."""
    if sys.argv[1:2] == ["--worker"]:
        serve(prepare, json.loads(sys.argv[2]))
    else:
        try:
            main()
        except (ValueError, OSError, RuntimeError) as error:
            sys.exit(f"{type(error).__name__}: {error}")
