# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Measures speed as ratios: every candidate is timed beside its baseline, in turns, in one run.

    python scripts/benchmark.py quantizer [--official PATH] [--output FILE.json]
    python scripts/benchmark.py rqvae [--output FILE.json]
    python scripts/benchmark.py generate [--config RECIPE.json] [--official PATH] [--compile [MODE]] [--output FILE]
    python scripts/benchmark.py decode [--transformer RECIPE.json] [--official PATH] [--compile [MODE]] [--output FILE]
    python scripts/benchmark.py train [--config RECIPE.json] [--official PATH] [--output FILE.json]

`quantizer` times residual quantization against the bare products of vectors and codebook that no exact search can do
without; with `--official`, a checkout of kakaobrain/rq-vae-transformer, also against the official quantizer, and where
`vector-quantize-pytorch` is installed against its `ResidualVQ`. `rqvae` times encoding and decoding of 256x256
pictures in the memory formats and with `torch.compile`. `generate` times sampling against the official loop on the
same weights, in several precisions, compiled and not, and against what the linear maps alone take; `decode` from codes
to pictures and, with `--transformer`, from conditions to pictures. `train` times one step of an RQ-Transformer in fp32
as far as the gradients: stochastic codes, forward pass, soft-label loss and backward pass, against the loss that holds
all logits and targets and, with `--official`, the official step; and the loss alone. Weights are random. Run it on an
idle machine: the tables give medians and quartiles.
"""

import argparse
import copy
import functools
import itertools
import json
import platform
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import benchmark_sampling
import torch
import torch.nn.functional as F
from official_code import import_official, official_step
from timing import Call, difference, extra_memory, markdown, measure, table

from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration, RQVAEConfig, RQVAEModel, __version__
from rq_hf.command_line import INPUT_ERRORS, add_device_argument
from rq_hf.pipeline_rq_image_generation import load_component
from rq_hf.residual_quantizer import ResidualQuantizer, soft_code_probabilities
from rq_hf.training.arguments import read_config

RECIPE = Path(__file__).parent / "configs" / "imagenet-rqt-8x8x4-480M.json"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    add_device_argument(common)
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
    benchmark_sampling.add_arguments(commands, common)
    arguments = parser.parse_args(argv)
    for name, value in vars(arguments).items():
        values = value if isinstance(value, list) else [value]
        if any(type(each) is int and each < 1 for each in values):
            parser.error(f"`--{name}` must be at least 1, got {value}.")
    return arguments


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
    temperature = recipe["training"].get("code_temperature", 0.5)
    if isinstance(temperature, list):
        raise ValueError(f"`--config` must have one `code_temperature`, as the official loss has, got {temperature}.")
    rqvae_config = benchmark_sampling.named_rqvae(arguments.config, recipe)
    torch.manual_seed(0)
    rqvae = RQVAEModel(rqvae_config).to(device).eval().requires_grad_(False)
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
        temperatures = [temperature] * config.code_shape[-1]
        targets = {"residuals": residuals, "codebook": model.codebook.weight, "temperature": temperatures}
        return model.code_head(states, **targets)[0]

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


def shown_command(argv: list[str]) -> str:
    """The command line, without the place of a checkout, which is of no use to others."""
    words = [
        "--official=PATH" if word.startswith("--official=") else "PATH" if before == "--official" else word
        for before, word in zip(["", *argv], argv, strict=False)
    ]
    return shlex.join(["python", "scripts/benchmark.py", *words])


def processor_name() -> str:
    """That of its maker where the system tells it: libraries choose their kernels by it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.device.startswith("cuda"):
        processor = torch.cuda.get_device_name(arguments.device)
    else:
        processor = f"{processor_name()}, {arguments.threads} threads"
    commands = {
        "quantizer": benchmark_quantizer,
        "rqvae": benchmark_rqvae,
        "generate": benchmark_sampling.benchmark_generate,
        "decode": benchmark_sampling.benchmark_decode,
        "train": benchmark_train,
    }
    results = commands[arguments.command](arguments)
    print(markdown(results))
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        described = {
            "command": shown_command(argv),
            "processor": processor,
            "versions": {"rq_hf": __version__, "torch": torch.__version__},
            **results,
        }
        arguments.output.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
