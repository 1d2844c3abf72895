# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A checkout of kakaobrain/rq-vae-transformer, built here from our configurations to be measured beside our code."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from rq_hf import RQTransformerConfig, RQVAEConfig
from rq_hf.conversion import Rule


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


def official_quantizer(path: Path, config: RQTransformerConfig, codebook: torch.Tensor) -> nn.Module:
    """The official quantizer with the code vectors `(K, n_z)`."""
    module = import_official(path, "models.rqvae.quantizations")
    shape = config.code_shape
    quantizer = module.RQBottleneck(
        (*shape[:2], config.codebook_dim), shape, n_embed=config.codebook_size, shared_codebook=True
    ).to(codebook.device)
    with torch.no_grad():
        quantizer.codebooks[0].weight[:-1] = codebook
    return quantizer.eval()


def official_transformer(path: Path, config: RQTransformerConfig) -> nn.Module:
    """The official transformer of this architecture with random weights."""
    module = import_official(path, "models.rqtransformer.transformers")
    block = Settings(
        embed_dim=config.hidden_size, n_head=config.num_attention_heads, mlp_bias=True, attn_bias=True, gelu="v1",
        attn_pdrop=config.attention_dropout, resid_pdrop=config.dropout,
    )  # fmt: skip
    stacks = {"body": config.num_spatial_layers, "head": config.num_depth_layers}
    return module.RQTransformer(
        Settings(
            block_size=list(config.code_shape), vocab_size=config.codebook_size, embed_dim=config.hidden_size,
            input_embed_dim=config.codebook_dim, vocab_size_cond=config.vocab_size,
            block_size_cond=config.condition_length, input_emb_vqvae=True, head_emb_vqvae=True, cumsum_depth_ctx=True,
            shared_tok_emb=True, shared_cls_emb=True, embd_pdrop=config.embedding_dropout,
            **{name: Settings(n_layer=layers, block=block) for name, layers in stacks.items()},
        )
    )  # fmt: skip


def code_vectors(quantizer: nn.Module) -> SimpleNamespace:
    """What the official transformer asks of an RQ-VAE."""
    return SimpleNamespace(get_code_emb_with_depth=quantizer.embed_code_with_depth)


def copy_weights(official: nn.Module, model: nn.Module, rule: Callable[[str, Any], Rule]) -> None:
    """Gives our model the weights of the official one, tensor by tensor after a rule of the converter."""
    weights = official.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name != "codebook.weight":  # the official transformer has none
                names, make = rule(name, model.config)
                tensor.copy_(make(*(weights[each] for each in names)))


def official_step(
    path: Path,
    config: RQTransformerConfig,
    temperature: float,
    codebook: torch.Tensor,
    latents: torch.Tensor,
    input_ids: torch.Tensor,
) -> Callable[[], torch.Tensor]:
    """A step of training from the official pieces, on the same latents, conditions and codebook."""
    quantizer = official_quantizer(path, config, codebook)
    embedder = code_vectors(quantizer)
    model = official_transformer(path, config).to(latents.device).train()

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


def official_decoder(path: Path, config: RQVAEConfig) -> nn.Module:
    """The official RQ-VAE of this architecture with random weights, to decode with."""
    module = import_official(path, "models.rqvae.rqvae")
    size = config.image_size
    towers = {
        "double_z": False, "z_channels": config.latent_channels, "resolution": size, "dropout": 0.0,
        "in_channels": config.num_channels, "out_ch": config.num_channels, "ch": config.base_channels,
        "ch_mult": list(config.channel_multiplier), "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": [size // 2**level for level in config.attention_levels],
    }  # fmt: skip
    code_shape = list(config.code_shape)
    return module.RQVAE(
        embed_dim=config.codebook_dim, n_embed=config.codebook_size, ddconfig=towers,
        latent_shape=[*code_shape[:2], config.codebook_dim], code_shape=code_shape, shared_codebook=True,
        restart_unused_codes=True,
    ).eval()  # fmt: skip
