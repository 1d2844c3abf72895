# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Measures speed as ratios: every candidate is timed beside its baseline, in turns, in one run.

    python scripts/benchmark.py quantizer [--official PATH] [--output FILE.json]
    python scripts/benchmark.py rqvae [--output FILE.json]
    python scripts/benchmark.py train [--config RECIPE.json] [--official PATH] [--output FILE.json]

`quantizer` times residual quantization against the bare products of vectors and codebook that no exact search can do
without; with `--official`, a checkout of kakaobrain/rq-vae-transformer, also against the official quantizer, and where
`vector-quantize-pytorch` is installed against its `ResidualVQ`. `rqvae` times encoding and decoding of 256x256
pictures in the memory formats and with `torch.compile`. `train` times one step of an RQ-Transformer in fp32 from
random weights, as far as the gradients: stochastic codes, forward pass, soft-label loss and backward pass, against the
loss that holds all logits and targets and, with `--official`, the official step; and the loss alone. Run it on an idle
machine: the table gives medians and quartiles.
"""

import argparse
import contextlib
import copy
import ctypes
import functools
import importlib
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
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration, RQVAEConfig, RQVAEModel, __version__
from rq_hf.pipeline_rq_image_generation import load_component
from rq_hf.residual_quantizer import ResidualQuantizer, soft_code_probabilities
from rq_hf.training.arguments import read_config

Call = Callable[[], Any]
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
RECIPE = Path(__file__).parent / "configs" / "imagenet-rqt-8x8x4-480M.json"
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
    train = commands.add_parser("train", parents=[common], help="a step of stage 2")
    train.add_argument("--config", type=Path, default=RECIPE, metavar="RECIPE.json", help="of a model of the paper")
    train.add_argument("--batch_size", type=int, default=2)
    train.add_argument("--loss_batch_size", type=int, default=16, help="pictures for the loss alone (%(default)s)")
    train.add_argument("--official", type=Path, metavar="PATH", help="checkout of kakaobrain/rq-vae-transformer")
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
    module = import_official(arguments.official, "models.rqvae.quantizations")
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


def import_official(path: Path, name: str) -> ModuleType:
    """A module of the official code; its packages themselves, which need more packages, are left empty."""
    if not (path / "rqvae").is_dir():
        raise ValueError(f"`--official` must be a checkout of the official code, '{path / 'rqvae'}' does not exist.")
    for package in ("", ".models", ".models.rqvae", ".models.rqtransformer", ".optimizer", ".utils"):
        empty = ModuleType(f"rqvae{package}")
        empty.__path__ = [str(path.joinpath("rqvae", *package.split(".")[1:]))]
        sys.modules[empty.__name__] = empty
    configs = ModuleType("rqvae.models.rqtransformer.configs")  # the real one needs Python 3.10 or older
    configs.RQTransformerConfig = configs.AttentionStackConfig = configs.AttentionBlockConfig = Settings
    sys.modules[configs.__name__] = configs
    return importlib.import_module(f"rqvae.{name}")


class Settings(SimpleNamespace):
    """What the official code reads of a configuration."""

    def copy(self) -> "Settings":
        return Settings(**vars(self))


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


def benchmark_train(arguments: argparse.Namespace) -> dict[str, Any]:
    device, batch_size = arguments.device, arguments.batch_size
    recipe = read_config(arguments.config)
    if "rqvae" not in recipe["card"]:
        raise ValueError(f"`--config` must name its RQ-VAE in `card`, got '{arguments.config}', which does not.")
    temperature = recipe["training"].get("code_temperature", 0.5)
    fields = read_config(arguments.config.with_name(f"{recipe['card']['rqvae']}.json"))["model"]
    torch.manual_seed(0)
    rqvae = RQVAEModel(RQVAEConfig(**fields)).to(device).eval().requires_grad_(False)
    config = RQTransformerConfig.from_rqvae_config(rqvae.config, **recipe["model"])
    if not config.shared_codebook:
        raise ValueError("`--config` must have `shared_codebook` true: the naive loss is written for one, got false.")
    model = RQTransformerForImageGeneration(config).to(device).train()
    model.set_codebook(rqvae.codebook)
    size = rqvae.config.image_size
    pixel_values = torch.rand(batch_size, rqvae.config.num_channels, size, size, device=device) * 2 - 1
    latents = rqvae.encode_latents(pixel_values)  # (B, H, W, n_z)
    input_ids = torch.randint(config.vocab_size, (batch_size, config.condition_length), device=device)
    codebook = rqvae.codebook[0]

    def soft_targets(residuals: torch.Tensor) -> torch.Tensor:
        return soft_code_probabilities(residuals, codebook, temperature)  # (B, H, W, D, K)

    def step(from_latents: torch.Tensor = latents) -> torch.Tensor:
        codes, residuals = rqvae.quantize(from_latents, temperature, stochastic=True)
        return model(input_ids, codes, residuals=residuals, label_temperature=temperature).loss

    def naive_step() -> torch.Tensor:
        codes, residuals = rqvae.quantize(latents, temperature, stochastic=True)
        return model(input_ids, codes, labels=soft_targets(residuals)).loss

    steps = {"naive loss": naive_step, "rq_hf": step, "rq_hf, from pictures": lambda: step(encode())}
    baseline = "naive loss"
    if arguments.official is not None:
        baseline = "official"
        steps[baseline] = official_step(arguments.official, config, temperature, codebook, latents, input_ids)

    def encode() -> torch.Tensor:
        return rqvae.encode_latents(pixel_values)

    shape = (arguments.loss_batch_size, *config.code_shape)
    states = torch.randn(*shape, config.hidden_size, device=device, requires_grad=True)
    residuals = torch.randn(*shape, config.codebook_dim, device=device)

    def naive_loss() -> torch.Tensor:
        logits = model.code_head(states)
        return F.cross_entropy(logits.flatten(0, -2), soft_targets(residuals).flatten(0, -2))

    def loss() -> torch.Tensor:
        targets = {"residuals": residuals, "codebook": model.codebook.weight, "temperature": temperature}
        return model.code_head(states, **targets).mean()

    tables = {
        "step": (steps | {"encoder alone": encode}, baseline),
        "loss": ({"naive loss": naive_loss, "rq_hf": loss}, "naive loss"),
    }
    calls = {name: {key: differentiated(call) for key, call in each.items()} for name, (each, _) in tables.items()}
    results = {name: table(measure(calls[name], arguments.rounds, device), tables[name][1]) for name in tables}
    for name, rows in results.items():  # after all times: it changes how memory is allocated
        for row in rows:
            row["extra_mib"] = extra_memory(calls[name][row["name"]], device)
            value = tables[name][0][row["name"]]()
            row["loss"] = value.item() if value.ndim == 0 else None
    return results


def differentiated(call: Callable[[], torch.Tensor]) -> Call:
    """`call` and its gradients, which add to those of earlier calls: their memory is there already."""

    def run() -> None:
        value = call()
        if value.requires_grad:
            value.backward()

    return run


def official_step(
    path: Path,
    config: RQTransformerConfig,
    temperature: float,
    codebook: torch.Tensor,
    latents: torch.Tensor,
    input_ids: torch.Tensor,
) -> Callable[[], torch.Tensor]:
    """The official pieces on the same latents, conditions and codebook."""
    shape, width = config.code_shape, config.codebook_dim
    quantizations = import_official(path, "models.rqvae.quantizations")
    transformers = import_official(path, "models.rqtransformer.transformers")
    quantizer = quantizations.RQBottleneck(
        (*shape[:2], width), shape, n_embed=config.codebook_size, shared_codebook=True
    ).to(latents.device)
    with torch.no_grad():
        quantizer.codebooks[0].weight[:-1] = codebook
    embedder = SimpleNamespace(get_code_emb_with_depth=quantizer.embed_code_with_depth)
    block = Settings(
        embed_dim=config.hidden_size, n_head=config.num_attention_heads, mlp_bias=True, attn_bias=True, gelu="v1",
        attn_pdrop=config.attention_dropout, resid_pdrop=config.dropout,
    )  # fmt: skip
    stacks = {"body": config.num_spatial_layers, "head": config.num_depth_layers}
    model = transformers.RQTransformer(
        Settings(
            block_size=list(shape), vocab_size=config.codebook_size, embed_dim=config.hidden_size,
            input_embed_dim=width, vocab_size_cond=config.vocab_size, block_size_cond=config.condition_length,
            input_emb_vqvae=True, head_emb_vqvae=True, cumsum_depth_ctx=True, shared_tok_emb=True,
            shared_cls_emb=True, embd_pdrop=config.embedding_dropout,
            **{name: Settings(n_layer=layers, block=block) for name, layers in stacks.items()},
        )
    ).to(latents.device).train()  # fmt: skip

    def step() -> torch.Tensor:
        soft_codes, codes = quantizer.get_soft_codes(latents, temp=temperature, stochastic=True)
        outputs = model(codes, embedder, cond=input_ids)
        logits, text_logits = outputs if isinstance(outputs, tuple) else (outputs, None)
        loss = model.compute_loss(logits, soft_codes, use_soft_target=True)
        if text_logits is None:
            return loss
        weight = config.text_loss_weight
        return (1 - weight) * loss + weight * model.compute_cond_loss(text_logits, input_ids)

    return step


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
    commands = {"quantizer": benchmark_quantizer, "rqvae": benchmark_rqvae, "train": benchmark_train}
    results = commands[arguments.command](arguments)
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
