# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Measures speed as ratios: every candidate is timed beside its baseline, in turns, in one run.

    python scripts/benchmark.py quantizer [--official PATH] [--output FILE.json]
    python scripts/benchmark.py rqvae [--output FILE.json]

`quantizer` times residual quantization against the bare products of vectors and codebook that no exact search can do
without; with `--official`, a checkout of kakaobrain/rq-vae-transformer, also against the official quantizer, and where
`vector-quantize-pytorch` is installed against its `ResidualVQ`. `rqvae` times encoding and decoding of 256x256
pictures in the memory formats and with `torch.compile`. Run it on an idle machine: the table gives medians and
quartiles.
"""

import argparse
import contextlib
import copy
import ctypes
import functools
import importlib.util
import itertools
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rq_hf import RQVAEConfig, RQVAEModel, __version__
from rq_hf.pipeline_rq_image_generation import load_component
from rq_hf.residual_quantizer import ResidualQuantizer

Call = Callable[[], Any]
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    common.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU (%(default)s)")
    common.add_argument("--rounds", type=int, default=9, help="turns of all candidates after one to warm up")
    common.add_argument("--output", type=Path, metavar="FILE.json", help="where to write the results")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    quantizer = commands.add_parser("quantizer", parents=[common], help="residual quantization")
    quantizer.add_argument("--num_vectors", type=int, default=2048)
    quantizer.add_argument("--codebook_dim", type=int, default=256)
    quantizer.add_argument("--codebook_size", type=int, default=16384)
    quantizer.add_argument("--code_depth", type=int, default=4)
    quantizer.add_argument("--official", type=Path, metavar="PATH", help="checkout of kakaobrain/rq-vae-transformer")
    rqvae = commands.add_parser("rqvae", parents=[common], help="encoding and decoding")
    rqvae.add_argument("--model", help="Hub id or folder; by default a new model of ImageNet's configuration")
    rqvae.add_argument("--image_size", type=int, default=256)
    rqvae.add_argument("--batch_size", type=int, default=4)
    rqvae.add_argument("--compile", action="store_true", help="with torch.compile as well")
    arguments = parser.parse_args(argv)
    for name, value in vars(arguments).items():
        if type(value) is int and value < 1:
            parser.error(f"`--{name}` must be at least 1, got {value}.")
    return arguments


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
        torch.cuda.synchronize()


def extra_memory(call: Call, device: str) -> float | None:
    """MiB by which memory rises at most while `call` runs, or `None` where that cannot be read."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    clear_refs = Path("/proc/self/clear_refs")
    if not clear_refs.exists():
        return None
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 2**20)  # what is freed goes back at once, and so does not blur the peak
        library.malloc_trim(0)
    clear_refs.write_text("5")  # the peak starts anew
    before = resident_memory("VmRSS")
    call()
    return resident_memory("VmHWM") - before


def resident_memory(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def benchmark_quantizer(arguments: argparse.Namespace) -> dict[str, Any]:
    dimension, size, depth = arguments.codebook_dim, arguments.codebook_size, arguments.code_depth
    device = arguments.device
    torch.manual_seed(0)
    latents = torch.randn(1, arguments.num_vectors, 1, dimension, device=device)  # one row of positions
    vectors = latents.view(-1, dimension)
    quantizers = {rule: ResidualQuantizer(size, dimension, depth).to(device) for rule in ("per_step", "per_depth")}
    codebook = quantizers["per_step"].codebook.weight[0].clone()
    products = torch.empty(arguments.num_vectors, size, device=device)

    def bare_products():
        for _ in range(depth):
            torch.mm(vectors, codebook.t(), out=products)

    def evaluate():
        quantizers["per_step"].quantize(latents)

    def train(rule: str, inputs: torch.Tensor = latents):
        leaf = inputs.clone().requires_grad_()
        quantized, _, commitment_loss = quantizers[rule](leaf, codebook_update=rule)
        (quantized.mean() + commitment_loss).backward()

    candidates: dict[str, Call] = {
        "bare products": bare_products,
        "rq_hf, evaluation": evaluate,
        "rq_hf, training, per_step": lambda: train("per_step"),
        "rq_hf, training, per_depth": lambda: train("per_depth"),
    }
    candidates |= official_quantizer(arguments, latents) if arguments.official is not None else {}
    candidates |= residual_vq(arguments, vectors)
    times = measure(candidates, arguments.rounds, device)

    memory = {name: extra_memory(call, device) for name, call in candidates.items() if "training" in name}
    longer = torch.randn(1, 4 * arguments.num_vectors, 1, dimension, device=device)
    for rule in quantizers:
        name = f"rq_hf, training, {rule}, {4 * arguments.num_vectors} vectors"
        memory[name] = extra_memory(lambda rule=rule: train(rule, longer), device)
    one_hot = size * arguments.num_vectors * 4 / 2**20
    return {
        "times": table(times, "bare products"),
        "memory": [{"name": "one-hot K x N in fp32 (computed)", "extra_mib": one_hot}]
        + [{"name": name, "extra_mib": peak} for name, peak in memory.items()],
    }


def official_quantizer(arguments: argparse.Namespace, latents: torch.Tensor) -> dict[str, Call]:
    path = arguments.official / "rqvae" / "models" / "rqvae" / "quantizations.py"
    if not path.is_file():
        raise ValueError(f"`--official` must be a checkout of the official code, '{path}' does not exist.")
    spec = importlib.util.spec_from_file_location("official_quantizations", path)  # its package needs more packages
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shape = (*latents.shape[1:3], arguments.codebook_dim)
    official = module.RQBottleneck(
        shape, (*shape[:2], arguments.code_depth), n_embed=arguments.codebook_size, shared_codebook=True
    ).to(latents.device)

    @torch.no_grad()
    def evaluate():
        official.eval()(latents)

    def train():
        leaf = latents.clone().requires_grad_()
        quantized, commitment_loss, _ = official.train()(leaf)
        (quantized.mean() + commitment_loss).backward()

    return {"official, evaluation": evaluate, "official, training": train}


def residual_vq(arguments: argparse.Namespace, vectors: torch.Tensor) -> dict[str, Call]:
    try:
        release = version("vector-quantize-pytorch")
    except PackageNotFoundError:
        print("ResidualVQ is left out: vector-quantize-pytorch is not installed.", file=sys.stderr)
        return {}
    from vector_quantize_pytorch import ResidualVQ

    other = ResidualVQ(
        dim=arguments.codebook_dim,
        codebook_size=arguments.codebook_size,
        num_quantizers=arguments.code_depth,
        shared_codebook=True,
        threshold_ema_dead_code=1,
    ).to(vectors.device)

    @torch.no_grad()
    def evaluate():
        other.eval()(vectors[None])

    def train():
        leaf = vectors[None].clone().requires_grad_()
        quantized, _, commitment_loss = other.train()(leaf)
        (quantized.mean() + commitment_loss.mean()).backward()

    name = f"ResidualVQ {release}"
    return {f"{name}, evaluation": evaluate, f"{name}, training": train}


@torch.no_grad()
def benchmark_rqvae(arguments: argparse.Namespace) -> dict[str, Any]:
    """Diffusers' towers as they come, contiguous, against other memory formats and compiled ones."""
    torch.manual_seed(0)
    device = arguments.device
    if arguments.model is None:
        model = RQVAEModel(RQVAEConfig(image_size=arguments.image_size))
    else:
        model = load_component(RQVAEModel, arguments.model, "rqvae")
    model.to(device).eval()
    shape = (arguments.batch_size, model.config.num_channels, arguments.image_size, arguments.image_size)
    pictures = torch.rand(shape, device=device) * 2 - 1
    latents = model.encoder(pictures)  # (B, latent_channels, H, W)
    results: dict[str, Any] = {}
    for name, tower, inputs in (("encoder", model.encoder, pictures), ("decoder", model.decoder, latents)):
        candidates = {}
        for weights, given in itertools.product(FORMATS, FORMATS):
            candidate = copy.deepcopy(tower).to(memory_format=FORMATS[weights])
            given_inputs = inputs.contiguous(memory_format=FORMATS[given])
            label = f"weights {weights}, inputs {given}"
            candidates[label] = functools.partial(candidate, given_inputs)
            if arguments.compile and weights == given:
                candidates[f"{label}, compiled"] = functools.partial(torch.compile(candidate), given_inputs)
        expected = tower(inputs)
        rows = table(measure(candidates, arguments.rounds, device), "weights contiguous, inputs contiguous")
        for row in rows:
            row["largest difference"] = difference(candidates[row["name"]](), expected)
        results[name] = rows
    return results


def difference(values: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the largest expected value."""
    return ((values - expected).abs().max() / expected.abs().max()).item()


def table(times: dict[str, list[float]], baseline: str) -> list[dict[str, Any]]:
    """Median and quartiles of the seconds, and the median as a multiple of the baseline's."""
    rows = []
    for name, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
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


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.device.startswith("cuda"):
        processor = torch.cuda.get_device_name(arguments.device)
    else:
        processor = f"{platform.processor() or platform.machine()}, {arguments.threads} threads"
    results = {"quantizer": benchmark_quantizer, "rqvae": benchmark_rqvae}[arguments.command](arguments)
    print(markdown(results))
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        described = {
            "command": shlex.join(["python", "scripts/benchmark.py", *argv]),
            "processor": processor,
            "versions": {"rq_hf": __version__, "torch": torch.__version__},
            **results,
        }
        arguments.output.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"{type(error).__name__}: {error}")
