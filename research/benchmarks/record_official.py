# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Records what the official code makes of the tiny checkpoints of tests/official_fixture.py.

    python research/benchmarks/record_official.py PATH_OF_THE_OFFICIAL_CODE

tests/fixtures/official/ was recorded from commit 341395e of kakaobrain/rq-vae-transformer, with omegaconf and easydict
installed.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from official_fixture import (  # noqa: E402
    CHANGES,
    EXPECTED,
    FOLDER,
    SHAPES,
    condition,
    configs,
    initial_codebook,
    pictures,
    state_dicts,
    training_latents,
)


def import_official(path: Path) -> tuple[Any, Any]:
    """`create_model` and `augment_arch_defaults` of the official code.

    The defaults of its dataclasses are instances of dataclasses, which Python 3.11 refuses, so that this one module is
    read with factories in their place.
    """
    sys.path.insert(0, str(path))
    name = "rqvae.models.rqtransformer.configs"
    file = path / (name.replace(".", "/") + ".py")
    source = file.read_text(encoding="utf-8").replace("import dataclass\n", "import dataclass, field\n")
    source = re.sub(r"= (Attention\w+)\(\)", r"= field(default_factory=\1)", source)
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, file))
    sys.modules[name] = module
    exec(compile(source, str(file), "exec"), module.__dict__)
    from rqvae.models import create_model
    from rqvae.utils.config import augment_arch_defaults

    return create_model, augment_arch_defaults


def build_official(kind: str, create_model: Any, augment_arch_defaults: Any) -> list[torch.nn.Module]:
    """The two models of the official code."""
    from omegaconf import OmegaConf

    models = []
    for config in configs(kind):
        arch = OmegaConf.create({"vocab_size": config["dataset"].get("vocab_size"), **config["arch"]})
        if arch.type == "rq-vae":
            del arch.vocab_size
        models.append(create_model(augment_arch_defaults(arch))[0].eval())
    return models


@torch.no_grad()
def record(kind: str, rqvae: torch.nn.Module, transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Codes, pictures of each partial depth, logits and greedy samples of the official code."""
    for model, state_dict in zip((rqvae, transformer), state_dicts(kind), strict=True):
        model.load_state_dict(state_dict, strict=True)
    codes = rqvae.get_codes(pictures(kind))
    logits = transformer(codes, rqvae, cond=condition(kind))
    logits, text_logits = logits if isinstance(logits, tuple) else (logits, None)
    recorded = {
        "codes": codes,
        "pictures": torch.stack([rqvae.decode_partial_code(codes, depth, "add") for depth in range(codes.shape[-1])]),
        "logits": logits,
        "greedy": transformer.sample(torch.zeros_like(codes), rqvae, cond=condition(kind), top_k=1),
    }
    if text_logits is not None:
        recorded["text_logits"] = text_logits
    return {f"{kind}.{name}": value.contiguous() for name, value in recorded.items()}


def record_training() -> dict[str, torch.Tensor]:
    """Codebook and buffers of the official quantizer after three training steps from seed 5: fewer codes than vectors
    and more, one codebook for all depths and one for each."""
    from rqvae.models.rqvae.quantizations import RQBottleneck

    recorded = {}
    for shared in (True, False):
        for size in (20, 50):
            quantizer = RQBottleneck((4, 4, 8), (4, 4, 3), size, shared_codebook=shared, restart_unused_codes=True)
            codebooks = list(quantizer.codebooks)[: 1 if shared else 3]
            for codebook, start in zip(codebooks, initial_codebook(len(codebooks), size), strict=True):
                codebook.weight.data[:-1] = start
                codebook.embed_ema.copy_(start)
            torch.manual_seed(5)
            for latents in training_latents():
                quantizer.train()(latents)
            name = f"training.{'shared' if shared else 'separate'}.{size}"
            recorded[f"{name}.weight"] = torch.stack([codebook.weight[:-1] for codebook in codebooks])
            recorded[f"{name}.cluster_size"] = torch.stack([codebook.cluster_size_ema for codebook in codebooks])
            recorded[f"{name}.embedding_sum"] = torch.stack([codebook.embed_ema for codebook in codebooks])
    return recorded


def main(path: str) -> None:
    torch.set_num_threads(1)
    official = import_official(Path(path).resolve())
    models = {kind: build_official(kind, *official) for kind in CHANGES}
    shapes = {
        kind: [{name: list(weight.shape) for name, weight in model.state_dict().items()} for model in pair]
        for kind, pair in models.items()
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    SHAPES.write_text(json.dumps(shapes, separators=(",", ":")) + "\n")
    recorded = {name: value for kind, pair in models.items() for name, value in record(kind, *pair).items()}
    recorded |= record_training()
    save_file(recorded, EXPECTED, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main(*sys.argv[1:])
