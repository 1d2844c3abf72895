# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Builds the models of kakaobrain/rq-vae-transformer from a checkout, with random weights.

The checkout's packages import more than the models need, so each module is imported by itself.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import nn

TEXT_LOSS_WEIGHT = 0.1  # of the CC-3M configuration


class Settings(SimpleNamespace):
    """Stands in for the official configuration classes, which need Python 3.10 or older."""

    def copy(self) -> "Settings":
        return Settings(**vars(self))


def import_official(path: str, name: str) -> ModuleType:
    """Imports `rqvae.NAME` of the checkout."""
    root = Path(path)
    if not (root / "rqvae").is_dir():
        raise ValueError(f"`--official` must be a checkout of kakaobrain/rq-vae-transformer, got {path!r}.")
    for package in ("", ".models", ".models.rqvae", ".models.rqtransformer", ".optimizer", ".utils"):
        empty = ModuleType(f"rqvae{package}")
        empty.__path__ = [str(root.joinpath("rqvae", *package.split(".")[1:]))]
        sys.modules[empty.__name__] = empty
    configs = ModuleType("rqvae.models.rqtransformer.configs")
    configs.RQTransformerConfig = configs.AttentionStackConfig = configs.AttentionBlockConfig = Settings
    sys.modules[configs.__name__] = configs
    return importlib.import_module(f"rqvae.{name}")


def official_quantizer(path: str, code_shape: list[int], codebook_size: int, codebook_dim: int) -> nn.Module:
    module = import_official(path, "models.rqvae.quantizations")
    latent_shape = (*code_shape[:2], codebook_dim)
    return module.RQBottleneck(latent_shape, tuple(code_shape), n_embed=codebook_size, shared_codebook=True)


def official_transformer(path: str, fields: dict[str, Any], dropout: float) -> nn.Module:
    """The transformer of these fields of `RQTransformerConfig`."""
    module = import_official(path, "models.rqtransformer.transformers")
    block = Settings(
        embed_dim=fields["hidden_size"], n_head=fields["num_attention_heads"], mlp_bias=True, attn_bias=True,
        gelu="v1", attn_pdrop=0.0, resid_pdrop=dropout,
    )  # fmt: skip
    stacks = {"body": fields["num_spatial_layers"], "head": fields["num_depth_layers"]}
    return module.RQTransformer(
        Settings(
            block_size=list(fields["code_shape"]), vocab_size=fields["codebook_size"],
            embed_dim=fields["hidden_size"], input_embed_dim=fields["codebook_dim"],
            vocab_size_cond=fields["vocab_size"], block_size_cond=fields["condition_length"], input_emb_vqvae=True,
            head_emb_vqvae=True, cumsum_depth_ctx=True, shared_tok_emb=True, shared_cls_emb=True, embd_pdrop=0.0,
            **{name: Settings(n_layer=layers, block=block) for name, layers in stacks.items()},
        )
    )  # fmt: skip


def code_vectors(quantizer: nn.Module) -> SimpleNamespace:
    """What the official transformer asks of an RQ-VAE."""
    return SimpleNamespace(get_code_emb_with_depth=quantizer.embed_code_with_depth)
