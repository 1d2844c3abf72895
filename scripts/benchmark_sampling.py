# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`benchmark.py generate` and `decode`: from conditions to codes, from codes to pictures, and both together.

Baselines are the official code on the same weights, or without a checkout of it our own code as it is written. The
limit of `generate` is what its linear maps alone take: timed one after the other with the rows of the batch and the
model's own weights, in the best of the forms that the kernels offer, and counted as often as they are used.
"""

import argparse
import copy
import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from official_code import code_vectors, copy_weights, official_decoder, official_quantizer, official_transformer
from timing import Call, difference, extra_memory, measure, table
from torch import nn
from transformers import CompileConfig

from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration, RQVAEConfig, RQVAEModel
from rq_hf.conversion import rqvae_rule, transformer_rule
from rq_hf.evaluation.models import int8_config
from rq_hf.sampling_steps import CPU_MODES, filter_logits, take_caches
from rq_hf.training.arguments import read_config

CONFIGS = Path(__file__).parent / "configs"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}


def add_arguments(commands: Any, common: argparse.ArgumentParser) -> None:
    generate = commands.add_parser("generate", parents=[common], help="from conditions to codes")
    decode = commands.add_parser("decode", parents=[common], help="from codes to pictures, and from prompts to them")
    for parser in (generate, decode):
        parser.add_argument("--official", type=Path, metavar="PATH", help="checkout of kakaobrain/rq-vae-transformer")
        parser.add_argument(
            "--compile",
            nargs="?",
            const=CompileConfig().mode,
            choices=["default", *CPU_MODES],
            help="with torch.compile as well, in this mode (%(const)s)",
        )
        parser.add_argument("--top_k", type=int, default=1024)
        parser.add_argument("--top_p", type=float, default=0.9)
    generate.add_argument("--config", type=Path, default=CONFIGS / "cc3m-rqt-8x8x4-654M.json", metavar="RECIPE.json")
    generate.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 16])
    generate.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=["fp32"],
        help="of a large model one a call, and one batch size: compiled programs hold weights until the process ends",
    )
    generate.add_argument("--without_cache", action="store_true", help="the model without caches as well")
    generate.add_argument(
        "--against", type=Path, metavar="RECIPE.json", help="another model to compare with, such as 16x16x1 (Figure 4)"
    )
    decode.add_argument(
        "--config", type=Path, default=CONFIGS / "imagenet-rqvae-8x8x4-k16384.json", metavar="RECIPE.json"
    )
    decode.add_argument(
        "--transformer", type=Path, metavar="RECIPE.json", help="from prompts to pictures, with this model"
    )
    decode.add_argument("--batch_sizes", type=int, nargs="+", default=[4])
    decode.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the transformer")


def named_rqvae(path: Path, recipe: dict[str, Any]) -> RQVAEConfig:
    """The configuration of the RQ-VAE that the recipe at `path` names."""
    if "rqvae" not in recipe["card"]:
        raise ValueError(f"'{path}' must name its RQ-VAE in `card`, or have a `code_shape`, got neither.")
    return RQVAEConfig(**read_config(path.with_name(f"{recipe['card']['rqvae']}.json"))["model"])


def new_transformer(path: Path, official: Path | None, device: str) -> tuple[RQTransformerForImageGeneration, Any]:
    """Our model of a recipe and, where there is a checkout, the official one with the same random weights."""
    recipe = read_config(path)
    fields = recipe["model"]
    if "code_shape" not in fields:
        config = RQTransformerConfig.from_rqvae_config(named_rqvae(path, recipe), **fields)
    else:
        config = RQTransformerConfig(**fields)
    torch.manual_seed(0)
    model = RQTransformerForImageGeneration(config).to(device).eval().requires_grad_(False)
    if official is None:
        return model, None
    theirs = official_transformer(official, config).to(device).eval().requires_grad_(False)
    copy_weights(theirs, model, transformer_rule)
    return model, theirs


def in_precision(model: RQTransformerForImageGeneration, precision: str) -> RQTransformerForImageGeneration:
    """With the weights in that precision, a copy if need be; 8-bit ones with activations quantized row by row."""
    if precision == "fp32":
        return model
    changed = copy.deepcopy(model).to(PRECISIONS[precision])
    if precision == "int8":
        quantization = int8_config()  # says what is missing
        from torchao.quantization import quantize_

        quantize_(changed, quantization)
    return changed


def official_codes(theirs: nn.Module, vectors: SimpleNamespace, input_ids: torch.Tensor, top_k: int, top_p: float):
    """Codes `(B, H, W, D)` of the official sampling loop."""
    empty = torch.zeros(len(input_ids), *theirs.block_size, dtype=torch.long, device=input_ids.device)
    return theirs.sample(empty, vectors, cond=input_ids, top_k=top_k, top_p=top_p)


def codes_without_cache(model: RQTransformerForImageGeneration, input_ids: torch.Tensor, options: dict[str, Any]):
    """Each code from a pass over all codes, by the model's `forward`."""
    height, width, depth = model.config.code_shape
    codes = torch.zeros(len(input_ids), height, width, depth, dtype=torch.long, device=input_ids.device)
    for row in range(height):
        for column in range(width):
            for d in range(depth):
                logits = model(input_ids, codes).logits[:, row, column, d]
                filtered = filter_logits(logits, options["top_k"], options["top_p"])
                codes[:, row, column, d] = filtered.softmax(-1).multinomial(1)[:, 0]
    return codes


@torch.no_grad()
def benchmark_generate(arguments: argparse.Namespace) -> dict[str, Any]:
    device, official = arguments.device, arguments.official
    model, theirs = new_transformer(arguments.config, official, device)
    config = model.config
    models = {precision: in_precision(model, precision) for precision in arguments.precisions}
    vectors = None
    if theirs is not None:
        vectors = code_vectors(official_quantizer(official, config, model.codebook.weight[0]))
    options = {"top_k": arguments.top_k, "top_p": arguments.top_p}
    others = {}
    if arguments.against is not None:
        other, _ = new_transformer(arguments.against, None, device)
        others = {precision: in_precision(other, precision) for precision in arguments.precisions}
    results: dict[str, Any] = {"kernels": kernels(model, device)}
    for batch_size in arguments.batch_sizes:
        input_ids = torch.randint(config.vocab_size, (batch_size, config.condition_length), device=device)
        candidates: dict[str, Call] = {}
        if theirs is not None:
            candidates["official"] = lambda ids=input_ids: official_codes(theirs, vectors, ids, **options)
        compared = {f"rq_hf {precision}": (each, input_ids) for precision, each in models.items()}
        for precision, each in others.items():
            shape = (batch_size, each.config.condition_length)
            other_ids = torch.randint(each.config.vocab_size, shape, device=device)
            compared[f"{arguments.against.stem} {precision}"] = (each, other_ids)
        for name, (each, ids) in compared.items():
            candidates[name] = generation(each, ids, options)
            if arguments.compile:
                candidates[f"{name}, compiled"] = generation(each, ids, options, arguments.compile)
        if arguments.without_cache:
            candidates["without cache"] = lambda ids=input_ids: codes_without_cache(model, ids, options)
        rows = rows_of(candidates, arguments, batch_size, [*models.values(), *others.values()])
        limit = bare_linears(model, batch_size, device)
        expected = greedy_codes(theirs, vectors, model, input_ids)
        for row in rows:
            name = row["name"]
            row["share of the limit"] = limit / row["seconds"] if name.startswith("rq_hf fp32") else None
            if name.startswith("rq_hf"):
                precision, _, form = name.removeprefix("rq_hf ").partition(", ")
                mode = arguments.compile if form == "compiled" else None
                codes = generation(models[precision], input_ids, {"do_sample": False}, mode)()
                row["equal greedy codes"] = (codes == expected).float().mean().item()
            else:
                row["equal greedy codes"] = None
        results[f"batch of {batch_size}"] = rows
        results[f"batch of {batch_size}, linear maps alone"] = [{"name": "best forms, fp32", "seconds": limit}]
        torch._dynamo.reset()  # programs of this batch size hold copies of the weights
    return results


def generation(model: nn.Module, input_ids: torch.Tensor, options: dict[str, Any], mode: str | None = None) -> Call:
    """Sampling as it is written, or compiled in that mode of torch.compile."""
    compile_config = CompileConfig(fullgraph=True, dynamic=False, mode=mode) if mode is not None else None
    return lambda: model.generate(input_ids, compile_config=compile_config, **options)


def greedy_codes(theirs: nn.Module | None, vectors: Any, model: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    if theirs is None:
        return model.generate(input_ids, do_sample=False)
    return official_codes(theirs, vectors, input_ids, top_k=1, top_p=1.0)


def kernels(model: RQTransformerForImageGeneration, device: str) -> list[dict[str, Any]]:
    """Rate of a large product and of reading weights, for orientation."""
    size = 2048 if device == "cpu" else 8192
    square = torch.randn(size, size, device=device)
    weights = [block.mlp[0].weight for block in model.spatial_transformer.blocks]
    calls = {"product": lambda: square @ square, "reading": lambda: [weight.sum() for weight in weights]}
    seconds = {name: min(times) for name, times in measure(calls, 5, device).items()}
    read = sum(weight.numel() * weight.element_size() for weight in weights)
    return [
        {"name": f"{size} x {size} product, GFLOP/s", "value": 2 * size**3 / seconds["product"] / 1e9},
        {"name": "reading weights, GB/s", "value": read / seconds["reading"] / 1e9},
    ]


def linear_sequences(
    model: RQTransformerForImageGeneration, batch_size: int
) -> list[tuple[list[nn.Linear], int, int]]:
    """Linear maps as they follow each other, the rows of a call, and the calls for a batch of pictures."""
    config = model.config
    positions, depth = config.num_positions, config.code_shape[2]
    spatial, depths = (
        [each for block in stack.blocks for each in
         (block.attention.query_key_value, block.attention.out_proj, block.mlp[0], block.mlp[2])]
        for stack in (model.spatial_transformer, model.depth_transformer)
    )  # fmt: skip
    codes = [*depths, model.code_head.linear]
    codes += (depth - 1) * [model.depth_projection, *codes]
    at_positions = ([*spatial, *codes, model.spatial_projection], batch_size, positions)
    earlier_tokens = batch_size * (config.condition_length - 1)  # of the conditions; position 0 reads the last
    read = spatial[:-3]  # the last block computes keys and values of the conditions alone
    return [(read, earlier_tokens, 1), at_positions] if earlier_tokens else [at_positions]


def linear_forms(linear: nn.Linear, inputs: torch.Tensor) -> dict[str, Call]:
    """The same linear map in the forms that kernels offer."""
    weight, bias = linear.weight, linear.bias
    forms: dict[str, Call] = {
        "linear": lambda: F.linear(inputs, weight, bias),
        "transposed": lambda: torch.addmm(bias[:, None], weight, inputs.t()),
    }
    if inputs.device.type == "cpu" and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(inputs))
        forms["packed"] = lambda: torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], None)
    return forms


def bare_linears(model: RQTransformerForImageGeneration, batch_size: int, device: str, rounds: int = 5) -> float:
    """Seconds that the linear maps of one batch take alone, one after the other as they are used, so that caches hold
    what they hold then, and those of each shape in their best form."""
    total = 0.0
    for linears, rows, calls in linear_sequences(model, batch_size):
        inputs = {width: torch.randn(rows, width, device=device) for width in {each.in_features for each in linears}}
        made = {each: linear_forms(each, inputs[each.in_features]) for each in set(linears)}
        forms = [made[each] for each in linears]
        shapes = [each.weight.shape for each in linears]
        best = {}
        for shape in set(shapes):
            of_shape = [each for each, its_shape in zip(forms, shapes, strict=True) if its_shape == shape]
            candidates = {name: in_turn([each[name] for each in of_shape]) for name in of_shape[0]}
            times = measure(candidates, rounds, device)
            best[shape] = min(times, key=lambda name: statistics.median(times[name]))
        sequence = in_turn([each[best[shape]] for each, shape in zip(forms, shapes, strict=True)])
        total += calls * statistics.median(measure({"all": sequence}, rounds, device)["all"])
    return total


def in_turn(calls: list[Call]) -> Call:
    return lambda: [call() for call in calls]


@torch.no_grad()
def benchmark_decode(arguments: argparse.Namespace) -> dict[str, Any]:
    device, official = arguments.device, arguments.official
    torch.manual_seed(0)
    rqvae = RQVAEModel(RQVAEConfig(**read_config(arguments.config)["model"])).to(device).eval().requires_grad_(False)
    theirs = None
    if official is not None:
        theirs = official_decoder(official, rqvae.config).to(device).requires_grad_(False)
        copy_weights(theirs, rqvae, rqvae_rule)
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = (
        {} if theirs is None else {"official": theirs.decode_code}
    )
    calls |= {"rq_hf": rqvae.decode, "rq_hf, channels_last": in_channels_last(rqvae).decode}
    calls["rq_hf, sliced"] = sliced(rqvae).decode
    if arguments.compile:
        compiled = in_channels_last(rqvae)
        compiled.decoder = torch.compile(compiled.decoder, dynamic=False)
        calls["rq_hf, channels_last, compiled"] = compiled.decode
    results: dict[str, Any] = {}
    for batch_size in arguments.batch_sizes:
        codes = torch.randint(rqvae.config.codebook_size, (batch_size, *rqvae.config.code_shape), device=device)
        candidates = {name: functools.partial(call, codes) for name, call in calls.items()}
        expected = candidates["rq_hf"]()
        rows = rows_of(candidates, arguments, batch_size)
        for row in rows:
            row["largest difference"] = difference(candidates[row["name"]](), expected)
        results[f"decode {batch_size}"] = rows
    if arguments.transformer is not None:
        results |= from_conditions(arguments, rqvae, theirs)
    return results


def in_channels_last(rqvae: RQVAEModel) -> RQVAEModel:
    return copy.deepcopy(rqvae).to(memory_format=torch.channels_last)


def sliced(rqvae: RQVAEModel) -> RQVAEModel:
    other = copy.deepcopy(rqvae)
    other.enable_slicing()
    return other


def from_conditions(arguments: argparse.Namespace, rqvae: RQVAEModel, decoder: nn.Module | None) -> dict[str, Any]:
    """From token ids to PIL pictures, with a transformer of that recipe."""
    device, precision = arguments.device, arguments.precision
    model, theirs = new_transformer(arguments.transformer, arguments.official, device)
    config = model.config
    if config.code_shape != rqvae.config.code_shape or config.codebook_size != rqvae.config.codebook_size:
        raise ValueError(
            f"`--transformer` must have the codes of `--config`, {rqvae.config.code_shape} of "
            f"{rqvae.config.codebook_size}, got {config.code_shape} of {config.codebook_size}."
        )
    model.set_codebook(rqvae.codebook)
    vectors = code_vectors(decoder.quantizer) if decoder is not None else None
    options = {"top_k": arguments.top_k, "top_p": arguments.top_p}
    processor = VaeImageProcessor()
    best = in_channels_last(rqvae)
    changed = in_precision(model, precision)

    def ours(input_ids: torch.Tensor, mode: str | None) -> list[Any]:
        return processor.postprocess(best.decode(generation(changed, input_ids, options, mode)()))

    def official(input_ids: torch.Tensor) -> list[Any]:
        pictures = decoder.decode_code(official_codes(theirs, vectors, input_ids, **options))
        return processor.postprocess(pictures)

    results = {}
    for batch_size in arguments.batch_sizes:
        input_ids = torch.randint(config.vocab_size, (batch_size, config.condition_length), device=device)
        candidates: dict[str, Call] = {}
        if theirs is not None:
            candidates["official"] = functools.partial(official, input_ids)
        candidates[f"rq_hf {precision}"] = functools.partial(ours, input_ids, None)
        if arguments.compile:
            candidates[f"rq_hf {precision}, compiled"] = functools.partial(ours, input_ids, arguments.compile)
        results[f"conditions to pictures {batch_size}"] = rows_of(candidates, arguments, batch_size, [changed])
        torch._dynamo.reset()
    return results


def rows_of(
    candidates: dict[str, Call], arguments: argparse.Namespace, batch_size: int, transformers: Sequence[nn.Module] = ()
) -> list[dict[str, Any]]:
    """Times, ratios to the first candidate and memory of calls that make `batch_size` pictures; the caches that these
    transformers keep for the next call are counted."""

    def drop_caches() -> None:
        for transformer in transformers:
            take_caches(transformer)

    rows = table(measure(candidates, arguments.rounds, arguments.device), next(iter(candidates)))
    for row in rows:
        row["faster"] = 1 / row.pop("ratio")
        row["pictures/s"] = batch_size / row["seconds"]
        row["s/picture"] = row["seconds"] / batch_size
        row["extra_mib"] = extra_memory(candidates[row["name"]], arguments.device, drop_caches)
    return rows
