# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Times residual quantization against the products of vectors and codebook, which no exact search can do without.

    python research/benchmarks/quantizer.py --official PATH --base PATH

"training" is a forward and a backward pass with the update of the codebook, by either of the two rules.
"""

import argparse
from typing import Any

import torch
from common import Call, Settings, Variant, add_ratios, common_parser, common_settings, compare, report, run
from official import official_quantizer

PRODUCTS = "bare products"
CALLS = ("evaluation", "training per_step", "training per_depth")


def prepare(settings: Settings) -> Call:
    """The call of one variant on random latents `(1, N, 1, n_z)`."""
    size, dimension, depth = settings["codebook_size"], settings["codebook_dim"], settings["code_depth"]
    count, device, name = settings["num_vectors"], settings["device"], settings["call"]
    latents = torch.randn(1, count, 1, dimension, device=device)
    if name == PRODUCTS:
        vectors, codebook = latents.view(count, dimension), torch.randn(size, dimension, device=device)
        products = torch.empty(count, size, device=device)
        return lambda: [torch.mm(vectors, codebook.t(), out=products) for _ in range(depth)]
    training = name.startswith("training")
    if settings["official"] is not None:
        quantizer = official_quantizer(settings["official"], [count, 1, depth], size, dimension)
        quantizer.to(device).train(training)
        evaluate, arguments = torch.no_grad()(quantizer), {}
    else:
        from rq_hf import ResidualQuantizer

        quantizer = ResidualQuantizer(size, dimension, depth).to(device)
        evaluate, arguments = quantizer.quantize, {"codebook_update": name.removeprefix("training ")}

    def train() -> None:
        leaf = latents.clone().requires_grad_()
        outputs = quantizer(leaf, **arguments)  # quantized, commitment loss and codes in either order
        quantized, commitment_loss = outputs[0], next(each for each in outputs[1:] if each.is_floating_point())
        (quantized.mean() + commitment_loss).backward()

    return train if training else lambda: evaluate(latents)


def variants(arguments: argparse.Namespace) -> list[Variant]:
    sizes = {name: getattr(arguments, name) for name in ("num_vectors", "codebook_size", "codebook_dim", "code_depth")}
    settings = common_settings(arguments) | sizes | {"official": None}
    found = [Variant(PRODUCTS, settings | {"call": PRODUCTS})]
    if arguments.official is not None:
        theirs = settings | {"official": str(arguments.official)}
        found += [Variant(f"official {call}", theirs | {"call": call}) for call in ("evaluation", "training")]
    for call in CALLS:
        if arguments.base is not None:
            found.append(Variant(f"base {call}", settings | {"call": call}, library=arguments.base))
        found.append(Variant(f"rq_hf {call}", settings | {"call": call}))
    return found


def main(argv: list[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    parser = common_parser(__doc__)
    parser.add_argument("--num_vectors", type=int, default=2048, help="B * H * W (%(default)s)")
    parser.add_argument("--codebook_size", type=int, default=16384, help="(%(default)s)")
    parser.add_argument("--codebook_dim", type=int, default=256, help="(%(default)s)")
    parser.add_argument("--code_depth", type=int, default=4, help="(%(default)s)")
    arguments = parser.parse_args(argv)
    rows = compare(__file__, variants(arguments), arguments.rounds)
    add_ratios(rows, [PRODUCTS])
    tables = {f"{arguments.num_vectors} vectors": rows}
    report(arguments, tables)
    return tables


if __name__ == "__main__":
    run(main, prepare)
