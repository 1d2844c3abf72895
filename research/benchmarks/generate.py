# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Times sampling, from conditions to codes, against the official code and an earlier version of this library.

    python research/benchmarks/generate.py --model 8M --batch_sizes 1 4 16 64 --official PATH --base PATH
    python research/benchmarks/generate.py --model 654M --batch_sizes 1 4 --official PATH --variants fp32 bf16
    python research/benchmarks/generate.py --model 1.4B --against 1.4B-16x16x1 --device cuda --batch_sizes 100 200

Variants are a precision, with a suffix for a compiled step: `-compiled` is plain `torch.compile`, `-constant` also
lets the compiler treat weights as constants (CPU only). On a CPU a compiled step has attention written out. Weights
are random. The official code runs in fp32, and on a GPU with its own mixed precision as well.
"""

import argparse
import copy
from typing import Any

import torch
from common import MODELS, Call, Settings, Variant, add_ratios, common_parser, common_settings, compare, report, run
from official import code_vectors, official_quantizer, official_transformer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
FORMS = ("", "-compiled", "-constant")
CONSTANT_WEIGHTS = {"freezing": True, "cpp_wrapper": True}  # options of `torch.compile` for the CPU


def prepare(settings: Settings) -> Call:
    """Sampling a batch of codes with one variant."""
    return prepare_official(settings) if settings["variant"].startswith("official") else prepare_ours(settings)


def random_conditions(settings: Settings) -> torch.Tensor:
    fields = MODELS[settings["model"]]
    shape = (settings["batch_size"], fields["condition_length"])
    return torch.randint(fields["vocab_size"], shape, device=settings["device"])


def prepare_official(settings: Settings) -> Call:
    fields, device = MODELS[settings["model"]], settings["device"]
    sizes = [fields[name] for name in ("code_shape", "codebook_size", "codebook_dim")]
    vectors = code_vectors(official_quantizer(settings["official"], *sizes).to(device).eval())
    model = official_transformer(settings["official"], fields, dropout=0.0).to(device).eval()
    input_ids = random_conditions(settings)
    options = {"top_k": settings["top_k"], "top_p": settings["top_p"], "amp": settings["variant"] == "official amp"}

    @torch.no_grad()
    def sample() -> torch.Tensor:
        empty = torch.zeros(len(input_ids), *fields["code_shape"], dtype=torch.long, device=device)
        return model.sample(empty, vectors, cond=input_ids, **options)

    return sample


def prepare_ours(settings: Settings) -> Call:
    from transformers import CompileConfig

    from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration

    precision, _, form = settings["variant"].partition("-")
    config = RQTransformerConfig(**MODELS[settings["model"]])
    model = RQTransformerForImageGeneration(config).to(settings["device"], PRECISIONS[precision])
    model.eval().requires_grad_(False)
    if precision == "int8":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    compile_config = None
    if form:
        if settings["device"] == "cpu":
            model.set_attn_implementation("eager")
        compile_config = CompileConfig(fullgraph=True, dynamic=False, mode="default")
        if form == "constant":
            compile_config.mode, compile_config.options = None, copy.copy(CONSTANT_WEIGHTS)
        elif settings["device"].startswith("cuda"):
            compile_config.mode = "reduce-overhead"  # CUDA graphs
    input_ids = random_conditions(settings)
    options = {"top_k": settings["top_k"], "top_p": settings["top_p"], "compile_config": compile_config}
    return lambda: model.generate(input_ids, **options)


def variants(arguments: argparse.Namespace, batch_size: int) -> list[Variant]:
    sampling = {"batch_size": batch_size, "top_k": arguments.top_k, "top_p": arguments.top_p}
    settings = common_settings(arguments) | sampling | {"model": arguments.model}
    found = []
    if arguments.official is not None:
        for name in ("official", "official amp") if arguments.device.startswith("cuda") else ("official",):
            theirs = {"variant": name, "official": str(arguments.official)}
            found.append(Variant(name, settings | theirs))
    if arguments.base is not None:
        names = arguments.base_variants
        found += [Variant(f"base {name}", settings | {"variant": name}, library=arguments.base) for name in names]
    for name in arguments.variants:
        environment = {"TORCHINDUCTOR_FREEZING": "1"} if name.endswith("-constant") else {}
        found.append(Variant(f"rq_hf {name}", settings | {"variant": name}, environment=environment))
        if arguments.against is not None:
            other = settings | {"variant": name, "model": arguments.against}
            found.append(Variant(f"{arguments.against} {name}", other, environment=environment))
    return found


def main(argv: list[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    names = [f"{precision}{form}" for precision in PRECISIONS for form in FORMS]
    parser = common_parser(__doc__)
    parser.add_argument("--model", choices=MODELS, default="8M", help="(%(default)s)")
    parser.add_argument(
        "--against", choices=MODELS, help="another model of ours, such as one of 16x16x1 codes (Figure 4)"
    )
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument(
        "--variants", nargs="+", choices=names, default=["fp32", "fp32-compiled", "bf16", "bf16-compiled"],
        help="all models are in memory at once; (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--base_variants", nargs="+", choices=names, default=["fp32"], help="(%(default)s)")
    parser.add_argument("--top_k", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--top_p", type=float, default=0.9, help="(%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.device.startswith("cuda") and any(name.endswith("-constant") for name in arguments.variants):
        parser.error("`--variants` must not end with '-constant' on a GPU.")
    tables = {}
    for batch_size in arguments.batch_sizes:
        rows = compare(__file__, variants(arguments, batch_size), arguments.rounds)
        add_ratios(rows, ["official", f"base {arguments.base_variants[0]}"], faster=True)
        for row in rows:
            row["seconds per picture"] = row["seconds"] / batch_size
        tables[f"{arguments.model}, batch of {batch_size}"] = rows
    report(arguments, tables)
    return tables


if __name__ == "__main__":
    run(main, prepare)
