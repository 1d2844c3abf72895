# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints in the official format, and what the official code makes of them.

The weights come from a seed. fixtures/official/ holds the names and shapes of the official weights, and the outputs of
the official code, which research/benchmarks/record_official.py has recorded.
"""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

FOLDER = Path(__file__).parent / "fixtures" / "official"
EXPECTED, SHAPES = FOLDER / "expected.safetensors", FOLDER / "shapes.json"
NUM_PICTURES = 2

RQVAE = {
    "dataset": {"type": "imagenet", "transforms": {"type": "imagenet256x256"}},
    "arch": {
        "type": "rq-vae", "code_hier": 1, "checkpointing": True,
        "hparams": {
            "bottleneck_type": "rq", "embed_dim": 16, "n_embed": 64, "latent_shape": [4, 4, 16],
            "code_shape": [4, 4, 4], "shared_codebook": True, "decay": 0.99, "restart_unused_codes": True,
            "loss_type": "mse", "latent_loss_weight": 0.25,
        },
        "ddconfig": {
            "double_z": False, "z_channels": 24, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "dropout": 0.0,
        },
    },
    "experiment": {"batch_size": 32, "epochs": 10},
}  # fmt: skip
TRANSFORMER = {
    "dataset": {"type": "imagenet", "vocab_size": 64},
    "arch": {
        "type": "rq-transformer", "block_size": [4, 4, 4], "embed_dim": 32, "input_embed_dim": 16,
        "shared_tok_emb": True, "shared_cls_emb": True, "input_emb_vqvae": True, "head_emb_vqvae": True,
        "cumsum_depth_ctx": True, "vocab_size_cond": 1, "block_size_cond": 1,
        "body": {"n_layer": 2, "block": {"n_head": 4}}, "head": {"n_layer": 1, "block": {"n_head": 4}},
    },
    "loss": {"type": "soft_target_cross_entropy", "stochastic_codes": True, "temp": 0.5},
    "experiment": {"amp": True, "epochs": 100, "sample": {"top_k": 64, "top_p": 0.92}},
}  # fmt: skip
# What each kind changes; dotted keys are paths into the two configurations.
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cc3m": (
        {},
        {"dataset": {"dataset": "cc3m", "txt_tok_name": "bpe16k_huggingface", "context_length": 6},
         "arch.vocab_size": 64, "arch.vocab_size_cond": 40, "arch.block_size_cond": 6, "loss.txt_weight": 0.2,
         "loss.img_weight": 0.8, "sampling": {"temp": 0.9, "top_k": [32], "top_p": [0.7, 0.8, 0.9, 1.0]}},
    ),
    "imagenet_480M": ({}, {"arch.vocab_size_cond": 1000}),
    "imagenet_1.4B": (
        {},
        {"arch.vocab_size_cond": 1000, "arch.body.n_layer": 5, "arch.head.n_layer": 2, "arch.embd_pdrop": 0.1},
    ),
    "ffhq": (
        {"dataset": {"type": "ffhq"}, "arch.hparams.n_embed": 24, "arch.ddconfig.attn_resolutions": [8]},
        {"dataset": {"type": "ffhq", "vocab_size": 24}, "experiment.sample": {"top_k": 250, "top_p": 1.0}},
    ),
    "church": (
        {"dataset": {"type": "LSUN-church"}},
        {"dataset": {"type": "LSUN-church", "vocab_size": 64}, "arch.body.block.resid_pdrop": 0.3,
         "arch.head.block.resid_pdrop": 0.3},
    ),
}  # fmt: skip


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of a configuration with other values at dotted keys."""
    config = copy.deepcopy(config)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = config
        for part in path:
            section = section[part]
        section[last] = value
    return config


def configs(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The official configurations of stage 1 and stage 2."""
    return changed(RQVAE, CHANGES[kind][0]), changed(TRANSFORMER, CHANGES[kind][1])


def uniform(random: np.random.RandomState, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """Uniform in [-scale, scale], the same on every machine."""
    return torch.from_numpy((random.random_sample(shape) * 2 - 1) * scale).float()


def state_dicts(kind: str, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of stage 1 and stage 2 in the official layout, none of them zero, and a codebook like a trained one."""
    hparams = configs(kind)[0]["arch"]["hparams"]
    random, states = np.random.RandomState(seed), []
    for shapes in json.loads(SHAPES.read_text())[kind]:
        states.append({})
        for name, shape in sorted(shapes.items()):
            is_table = name == "cond_emb.weight" or name.startswith("pos_emb")
            scale = 0.2 if len(shape) == 1 else 1.0 if is_table else math.sqrt(3 / math.prod(shape[1:]))
            states[-1][name] = uniform(random, shape, scale) + (len(shape) == 1 and name.endswith("weight"))
    size = hparams["n_embed"]
    norms = torch.tensor([2.0 ** -(row % 4) for row in range(size)])  # coarse codes and finer ones
    weight = uniform(random, (size + 1, hparams["embed_dim"]), 1.0)
    weight[:size] *= norms[:, None]
    weight[size] = 0.0  # padding
    cluster_size = uniform(random, (size,), 20.0) + 30
    for depth in range(hparams["code_shape"][2]):  # all depths share one codebook
        name = f"quantizer.codebooks.{depth}"
        states[0][f"{name}.weight"], states[0][f"{name}.cluster_size_ema"] = weight, cluster_size
        states[0][f"{name}.embed_ema"] = weight[:size] * cluster_size[:, None]
    return states[0], states[1]


def pictures(kind: str) -> torch.Tensor:
    """Smooth pictures in [-1, 1]."""
    dd = configs(kind)[0]["arch"]["ddconfig"]
    coarse = uniform(np.random.RandomState(1), (NUM_PICTURES, dd["in_channels"], 5, 5), 1.0)
    size = (dd["resolution"], dd["resolution"])
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=True)


def condition(kind: str) -> torch.Tensor:
    """Condition ids, one row for each picture."""
    arch = configs(kind)[1]["arch"]
    shape = (NUM_PICTURES, arch["block_size_cond"])
    return torch.from_numpy(np.random.RandomState(2).randint(0, arch["vocab_size_cond"], shape))


def write_stage(folder: Path, config: dict[str, Any], state_dict: dict[str, torch.Tensor], **others: Any) -> None:
    """Writes `model.pt` and `config.yaml` into `folder` as the official training code does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    torch.save({"epoch": 3, "state_dict": state_dict, **others}, folder / "model.pt")


def write_checkpoint(folder: Path, kind: str) -> Path:
    """Writes both stages of a kind into `folder` and returns it."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=1e-3)
    others = {"optimizer": optimizer.state_dict(), "scheduler": {"warmup": None}}
    for stage, config, state_dict in zip(("stage1", "stage2"), configs(kind), state_dicts(kind), strict=True):
        write_stage(folder / stage, config, state_dict, **others)
    return folder


def training_latents() -> list[torch.Tensor]:
    """Latents of three training steps, `(2, 4, 4, 8)` each."""
    random = np.random.RandomState(7)
    return [torch.from_numpy(random.standard_normal((2, 4, 4, 8)).astype("float32")) for _ in range(3)]


def initial_codebook(num_codebooks: int, codebook_size: int) -> torch.Tensor:
    """Code vectors that a training starts from, `(num_codebooks, codebook_size, 8)`."""
    random = np.random.RandomState(codebook_size)
    return torch.from_numpy(random.standard_normal((num_codebooks, codebook_size, 8)).astype("float32"))
