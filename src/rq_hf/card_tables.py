# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tables of the model cards."""

from collections.abc import Iterable, Sequence
from typing import Any

from huggingface_hub import EvalResult

from .card_metadata import TrainingFootprint
from .configuration_rq_transformer import RQTransformerConfig
from .configuration_rqvae import RQVAEConfig


def rqvae_rows(config: RQVAEConfig | None, num_parameters: int | None) -> list[tuple[str, Any]]:
    """What a card's table says of the architecture of an RQ-VAE."""
    rows = [("Parameters", f"{num_parameters:,}" if num_parameters else None)]
    if config is not None:
        sharing = "one codebook for all depths" if config.shared_codebook else "a codebook for each depth"
        rows += [
            ("Pictures", f"{config.image_size} x {config.image_size} pixels, {config.num_channels} channels"),
            ("Code map (height x width x depth)", " x ".join(map(str, config.code_shape))),
            ("Codebook", f"{config.codebook_size:,} codes of {config.codebook_dim} dimensions, {sharing}"),
            ("Width of the levels", [config.base_channels * factor for factor in config.channel_multiplier]),
            ("Residual blocks per level", config.num_res_blocks),
        ]
    return rows


def transformer_rows(config: RQTransformerConfig | None, num_parameters: int | None) -> list[tuple[str, Any]]:
    """What a card's table says of the architecture of an RQ-Transformer."""
    rows = [("Parameters", f"{num_parameters:,}" if num_parameters else None)]
    if config is not None:
        condition = f"captions of up to {config.condition_length} tokens, vocabulary of {config.vocab_size:,}"
        if config.condition_length == 1:
            condition = f"one of {config.num_classes:,} classes" if config.vocab_size > 1 else "none"
        rows += [
            ("Condition", condition),
            ("Code map (height x width x depth)", " x ".join(map(str, config.code_shape))),
            ("Codebook", f"{config.codebook_size:,} codes of {config.codebook_dim} dimensions"),
            ("Layers", f"{config.num_spatial_layers} spatial, {config.num_depth_layers} depth"),
            ("Width", f"{config.hidden_size:,}, {config.num_attention_heads} attention heads"),
        ]
    return rows


def evaluation_rows(results: Iterable[EvalResult]) -> list[tuple[Any, ...]]:
    """Data set (with its configuration and revision), split, metric and value of each result."""
    rows = []
    for result in results:
        value = result.metric_value
        if isinstance(value, float):
            value = f"{value:.1f}" if abs(value) >= 1000 else f"{value:.4g}"
        details = [each for each in (result.dataset_config, result.dataset_revision) if each]
        name = result.dataset_name + (f" ({', '.join(details)})" if details else "")
        rows.append((name, result.dataset_split or "", result.metric_name or result.metric_type, value))
    return rows


def footprint_rows(footprint: TrainingFootprint | None) -> list[tuple[str, Any]]:
    """What a card's table says of the hours and emissions of a training."""
    if footprint is None:
        return []
    energy, emissions = footprint.energy, footprint.emissions
    return [
        ("Hardware", footprint.hardware),
        ("Hours", f"{footprint.hours:g}"),
        ("Location", footprint.location),
        ("Energy (estimate)", None if energy is None else f"{energy:.3g} kWh at {footprint.power_watts:g} W"),
        (
            "Emissions (estimate)",
            None if emissions is None else f"{emissions:.3g} kg CO2eq at {footprint.carbon_intensity:g} kg per kWh",
        ),
    ]


def table(rows: Iterable[Sequence[Any]], header: Sequence[str] = ("", "")) -> str | None:
    """A Markdown table of the rows whose last cell is not `None`, or `None` if there are none."""
    rows = [row for row in rows if row[-1] is not None]
    if not rows:
        return None
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def joined_commands(commands: str | Iterable[str] | None) -> str | None:
    """Commands, one a line, or `None` where there are none."""
    return commands.strip() if isinstance(commands, str) else "\n".join(commands or []) or None
