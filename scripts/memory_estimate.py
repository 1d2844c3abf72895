# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Memory and time that training an RQ-Transformer takes, computed from its recipe or measured.

    python scripts/memory_estimate.py tables [CONFIG.json ...]
    python scripts/memory_estimate.py measure CONFIG.json|FOLDER [--batch_size N] [--hidden_size N ...]

`tables` prints the tables of docs/scaling.md, which explains the formulae; without configurations, of all recipes of
the paper. `measure` takes two training steps of a recipe's transformer, or of a saved one's architecture, on the GPU
if there is one, and prints the peak beside the computed one.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from timing import extra_memory
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration, RQVAEConfig, RQVAEModel
from rq_hf.command_line import INPUT_ERRORS
from rq_hf.fused_cross_entropy import LOSS_BLOCK_ELEMENTS
from rq_hf.metrics import markdown_table
from rq_hf.pipeline_rq_image_generation import component_subfolder
from rq_hf.training.arguments import read_config

CONFIG_FOLDER = Path(__file__).parent / "configs"
GPU_COUNTS = (1, 4, 8, 64)
# Dense bf16 FLOP/s of the data sheets, and the part of them that a training is assumed to use.
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12}
UTILISATION = 0.3
# Recipe, pictures, epochs, A100s and days of App. A.3.
PAPER_RUNS = (
    ("cc3m-rqt-8x8x4-654M", 2.9e6, 100, 4, 4.5),
    ("imagenet-rqt-8x8x4-480M", 1.28e6, 100, 4, 4.5),
    ("imagenet-rqt-8x8x4-821M", 1.28e6, 100, 4, 4.5),
    ("imagenet-rqt-8x8x4-1.4B", 1.28e6, 100, 8, 4.5),
    ("lsun-bedroom-rqt-8x8x4-612M", 3.03e6, 90, 4, 9),
    ("lsun-church-rqt-8x8x4-370M", 0.126e6, 300, 4, 1),
)
# Recipe, pictures, epochs and GPUs. A picture of short side 346 as JPEG, and the time to decode and crop it.
CAMPAIGNS = (
    ("cc3m-rqt-8x8x4-654M", 2.9e6, 100, 8, "A100"),
    ("cc3m-rqt-8x8x4-654M", 2.9e6, 100, 8, "H100"),
    ("cc3m-rqt-8x8x4-654M", 100e6, 10, 64, "H100"),
    ("imagenet-rqt-8x8x4-3.8B", 100e6, 10, 64, "H100"),
    ("imagenet-rqt-8x8x4-3.8B", 100e6, 10, 256, "H100"),
)
PICTURE_BYTES, DECODE_SECONDS = 50_000, 0.003
# Bytes per second and GPU: NVLink of H100 nodes, and one 400 Gbit/s adapter for each GPU.
NODE_LINK, NETWORK_LINK = 450e9, 50e9
# Bytes of activations that the blocks keep for the backward pass, per token and unit of `hidden_size`, under bf16
# autocast: fp32 inputs of two norms (8); bf16 inputs of three linear maps (2 + 2 + 2), of attention (6) and of the
# activation function (8); two dropout masks (2).
BLOCK_BYTES, DROPOUT_BYTES = 28, 2
# Per logit: of the code head while it computes one block of codes, and of the text head.
CODE_LOGIT_BYTES, TEXT_LOGIT_BYTES = 14, 16
# Defaults of DeepSpeed: `stage3_max_live_parameters` and `reduce_bucket_size`, in elements.
ZERO3_LIVE, ZERO3_BUCKET = 10**9, 5 * 10**8
MODEL_FIELDS = ("vocab_size", "hidden_size", "num_spatial_layers", "num_depth_layers", "num_attention_heads")


@dataclass(frozen=True)
class Recipe:
    """What a recipe trains: the transformer, the frozen RQ-VAE, and pictures per process and micro-batch.

    Args:
        name: of the recipe.
        config: of the transformer.
        rqvae: of the RQ-VAE; `None` if the codes are read from a cache.
        batch_size: pictures per process and micro-batch.
        checkpointing: whether blocks are recomputed in the backward pass.
        global_batch_size: pictures per step; 0 if the recipe does not say.
    """

    name: str
    config: RQTransformerConfig
    rqvae: RQVAEConfig | None
    batch_size: int
    checkpointing: bool
    global_batch_size: int = 0

    @classmethod
    def load(cls, path: Path) -> "Recipe":
        sections = read_config(path)
        training, card = sections["training"], sections["card"]
        if "per_device_train_batch_size" not in training:
            raise ValueError(f"The configuration {str(path)!r} must state `per_device_train_batch_size`, got none.")
        rqvae = None
        if "rqvae" in card:
            rqvae_path = path.with_name(f"{card['rqvae']}.json")
            rqvae = RQVAEConfig(**read_config(rqvae_path)["model"])
        missing = [name for name in ("code_shape", "codebook_size", "vocab_size") if name not in sections["model"]]
        if missing:
            raise ValueError(
                f"The configuration {str(path)!r} must state `{'`, `'.join(missing)}` of its model, got none: "
                "training takes them from the RQ-VAE and the data. Measure the folder of a trained model instead."
            )
        return cls(
            path.stem,
            RQTransformerConfig(**sections["model"]),
            rqvae,
            training["per_device_train_batch_size"],
            training.get("gradient_checkpointing", False),
            card.get("global_batch_size", 0),
        )

    @cached_property
    def shapes(self) -> list[torch.Size]:
        """Shapes of all parameters, from the meta device."""
        with torch.device("meta"):
            return [value.shape for value in RQTransformerForImageGeneration(self.config).parameters()]

    @property
    def parameters(self) -> int:
        return sum(shape.numel() for shape in self.shapes)

    @property
    def block_parameters(self) -> int:
        hidden = self.config.hidden_size
        inner = self.config.intermediate_size or 4 * hidden
        return 4 * hidden**2 + 2 * hidden * inner + 9 * hidden + inner

    @property
    def num_blocks(self) -> int:
        return self.config.num_spatial_layers + self.config.num_depth_layers

    @property
    def spatial_tokens(self) -> int:
        return self.config.condition_length + self.config.num_positions - 1

    @property
    def codes(self) -> int:
        return math.prod(self.config.code_shape)

    def shard_elements(self, processes: int) -> int:
        """Elements that the first process keeps: `fully_shard` cuts the first dimension, and rounds up."""
        return sum(math.ceil(shape[0] / processes) * shape[1:].numel() for shape in self.shapes)

    def activation_bytes(self, checkpointing: bool) -> int:
        """Kept from the forward to the backward pass of one micro-batch, with the block that is being recomputed."""
        config, batch = self.config, self.batch_size
        spatial, depth = batch * self.spatial_tokens, batch * self.codes
        per_token = (BLOCK_BYTES + (DROPOUT_BYTES if config.dropout > 0 else 0)) * config.hidden_size
        if checkpointing:  # the fp32 input of each block
            kept = 4 * config.hidden_size * (config.num_spatial_layers * spatial + config.num_depth_layers * depth)
            kept += per_token * max(spatial, depth)
        else:
            kept = per_token * (config.num_spatial_layers * spatial + config.num_depth_layers * depth)
        ends = 4 * config.hidden_size * (2 * depth + spatial)  # inputs and outputs of the depth transformer, contexts
        logits = CODE_LOGIT_BYTES * min(LOSS_BLOCK_ELEMENTS, depth * config.codebook_size)
        logits += 4 * config.hidden_size * (depth + config.codebook_size)  # gradients by what the head gets and has
        if config.condition_length > 1:
            logits += TEXT_LOGIT_BYTES * batch * (config.condition_length - 1) * config.vocab_size
        return kept + ends + logits

    @property
    def encoder_bytes(self) -> int:
        """While the frozen encoder runs: 10 bytes per element of its largest map (bf16 autocast, fp32 norms)."""
        if self.rqvae is None:
            return 0
        return 10 * self.batch_size * self.rqvae.base_channels * self.rqvae.image_size**2

    @cached_property
    def rqvae_bytes(self) -> int:
        """The frozen RQ-VAE in fp32, with its codebook."""
        if self.rqvae is None:
            return 0
        with torch.device("meta"):
            model = RQVAEModel(self.rqvae)
        return 4 * sum(value.numel() for value in [*model.parameters(), *model.buffers()])

    def state_bytes(self, strategy: str, processes: int) -> int:
        """Weights, gradients and Adam's states of one process, and what a strategy gathers or copies of them.

        Args:
            strategy: "DDP", "FSDP2" or "ZeRO-3".
            processes: GPUs that share the work.
        """
        if strategy == "DDP":  # fp32 weights, gradients and two states, bf16 copies; buckets to reduce gradients in
            return self.parameters * (18 if processes == 1 else 22)
        sharded = 16 * self.shard_elements(processes)
        if strategy == "FSDP2":  # of two blocks and of what is in no block: bf16 weights and gradients, fp32 to sum
            rest = self.parameters - self.num_blocks * self.block_parameters
            return sharded + 8 * (rest + 2 * self.block_parameters)
        return sharded + 2 * min(self.parameters, ZERO3_LIVE) + 2 * min(self.parameters, ZERO3_BUCKET)

    def process_bytes(self, strategy: str, processes: int) -> int:
        """All of one process at its highest."""
        codebook = 4 * self.config.codebook_size * self.config.codebook_dim
        passing = max(self.activation_bytes(self.checkpointing), self.encoder_bytes)
        return self.state_bytes(strategy, processes) + codebook + self.rqvae_bytes + passing

    @property
    def forward_flops(self) -> int:
        """Of the transformer for one picture; two per multiplication with addition."""
        config, hidden = self.config, self.config.hidden_size
        inner = config.intermediate_size or 4 * hidden
        depth = config.code_shape[2]
        token = 8 * hidden**2 + 4 * hidden * inner
        spatial = config.num_spatial_layers * (self.spatial_tokens * token + 4 * self.spatial_tokens**2 * hidden)
        by_depth = config.num_depth_layers * config.num_positions * (depth * token + 4 * depth**2 * hidden)
        projections = 2 * config.codebook_dim * hidden * (config.num_positions * depth - 1)
        heads = 2 * hidden * self.codes * config.codebook_size
        if config.condition_length > 1:
            heads += 2 * hidden * (config.condition_length - 1) * config.vocab_size
        return spatial + by_depth + projections + heads

    @cached_property
    def encoder_flops(self) -> int:
        """Of the frozen encoder and of the codes' search for one picture, counted on the meta device."""
        if self.rqvae is None:
            return 0
        side = self.rqvae.image_size
        with torch.device("meta"):
            model, picture = RQVAEModel(self.rqvae), torch.empty(1, self.rqvae.num_channels, side, side)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.encode_latents(picture)
        search = 2 * self.codes * self.config.codebook_size * self.config.codebook_dim
        return counter.get_total_flops() + search

    @property
    def training_flops(self) -> int:
        """Of one picture: forward and backward pass and the encoder; nothing that is computed twice."""
        return 3 * self.forward_flops + self.encoder_flops

    def hours(self, pictures: float, gpus: int, gpu: str) -> float:
        """Hours for so many pictures at the assumed utilisation."""
        return pictures * self.training_flops / (gpus * PEAK_FLOPS[gpu] * UTILISATION) / 3600


def paper_recipes() -> list[Recipe]:
    """The recipes of Table 5, those of equal architecture and batch once."""
    recipes = {}
    for path in sorted(CONFIG_FOLDER.glob("*-rqt-*x*.json")):
        if "paper" in json.loads(path.read_text(encoding="utf-8"))["card"]:
            recipe = Recipe.load(path)
            size = (recipe.parameters, recipe.config.vocab_size, recipe.batch_size)
            recipes.setdefault(size, recipe)
    return sorted(recipes.values(), key=lambda recipe: recipe.parameters)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def gigabytes(number: float) -> str:
    return f"{number / 1e9:.1f}"


def parts_table(recipes: list[Recipe]) -> str:
    """What a process of DDP keeps, part by part."""
    header = "recipe, million parameters, weights, gradients, Adam, bf16 copies, buckets, EMA, RQ-VAE, batch, "
    header += "activations, with checkpointing, encoder"
    rows = []
    for recipe in recipes:
        count = recipe.parameters
        parts = [4 * count, 4 * count, 8 * count, 2 * count, 4 * count, 4 * count, recipe.rqvae_bytes]
        passing = [recipe.activation_bytes(False), recipe.activation_bytes(True), recipe.encoder_bytes]
        cells = [recipe.name, f"{count / 1e6:,.0f}", *map(gigabytes, parts), str(recipe.batch_size)]
        rows.append([*cells, *map(gigabytes, passing)])
    return markdown_table(header.split(", "), rows)


def process_table(recipes: list[Recipe]) -> str:
    """GB per process under each strategy."""
    columns = [("DDP", 1), ("DDP", 4)]
    columns += [(strategy, processes) for strategy in ("FSDP2", "ZeRO-3") for processes in GPU_COUNTS]
    header = ["recipe", "DDP 1", "DDP 4, 8, 64", *(f"{strategy} {number}" for strategy, number in columns[2:])]
    rows = [[recipe.name, *(gigabytes(recipe.process_bytes(*column)) for column in columns)] for recipe in recipes]
    return markdown_table(header, rows)


def time_table(recipes: list[Recipe]) -> str:
    """FLOPs of a picture, and hours for a hundred million of them."""
    header = ["recipe", "codes and other tokens", "GFLOPs forward", "encoder", "training", "encoder's share"]
    machines = [(4, "A100"), (8, "A100"), (8, "H100"), (64, "H100")]
    header += [f"hours on {gpus} {gpu}" for gpus, gpu in machines]
    rows = []
    for recipe in recipes:
        flops = (recipe.forward_flops, recipe.encoder_flops, recipe.training_flops)
        hours = [recipe.hours(1e8, gpus, gpu) for gpus, gpu in machines]
        tokens = f"{recipe.codes} + {recipe.config.condition_length}"
        share = f"{recipe.encoder_flops / recipe.training_flops:.0%}"
        rows.append([recipe.name, tokens, *(number(value / 1e9) for value in flops), share, *map(number, hours)])
    return markdown_table(header, rows)


def paper_table() -> str:
    """The utilisation that the paper's own times (App. A.3) imply."""
    rows = []
    for name, pictures, epochs, gpus, days in PAPER_RUNS:
        recipe = Recipe.load(CONFIG_FOLDER / f"{name}.json")
        flops = pictures * epochs * recipe.training_flops
        used = flops / (gpus * PEAK_FLOPS["A100"] * days * 86400)
        cells = [name, f"{pictures / 1e6:.2f}", str(epochs), str(gpus), str(days), f"{flops:.1e}", f"{used:.0%}"]
        rows.append(cells)
    return markdown_table(["recipe", "million pictures", "epochs", "A100", "days", "FLOPs", "utilisation"], rows)


def campaign_table() -> str:
    """Tokens, steps and hours of CC-3M and of a web-scale set."""
    rows = []
    for name, pictures, epochs, gpus, gpu in CAMPAIGNS:
        recipe = Recipe.load(CONFIG_FOLDER / f"{name}.json")
        seen = pictures * epochs
        hours = recipe.hours(seen, gpus, gpu)
        rate = seen / hours / 3600
        tokens = seen * (recipe.codes + recipe.config.condition_length)
        cells = [name, f"{pictures / 1e6:g}", str(epochs), f"{tokens:.1e}", number(seen / recipe.global_batch_size)]
        megabytes = rate / (gpus / 8) * PICTURE_BYTES / 1e6
        cores = rate / (gpus / 8) * DECODE_SECONDS
        rows.append([*cells, f"{gpus} {gpu}", *map(number, (hours, rate, rate / (gpus / 8), megabytes, cores))])
    header = "recipe, million pictures, epochs, tokens, steps, GPUs, hours, pictures/s, per node of 8, MB/s per node, "
    return markdown_table((header + "cores to decode").split(", "), rows)


def exchange_table() -> str:
    """What FSDP2 sends in a micro-batch, beside the time to compute it, and the size of its checkpoints."""
    rows = []
    for name, batch in (
        ("imagenet-rqt-8x8x4-1.4B", 8),
        ("imagenet-rqt-8x8x4-3.8B", 8),
        ("imagenet-rqt-8x8x4-3.8B", 32),
    ):
        recipe = replace(Recipe.load(CONFIG_FOLDER / f"{name}.json"), batch_size=batch)
        sent = 8 * recipe.parameters  # bf16 weights in the forward and in the backward pass, fp32 gradients
        flops = batch * (recipe.training_flops + recipe.forward_flops)  # gradient checkpointing: once more forward
        seconds = [sent / NODE_LINK, sent / NETWORK_LINK, flops / (PEAK_FLOPS["H100"] * UTILISATION)]
        cells = [recipe.name, str(batch), gigabytes(sent), *(f"{value:.2f}" for value in seconds)]
        rows.append([*cells, gigabytes(recipe.process_bytes("FSDP2", 64)), gigabytes(16 * recipe.parameters)])
    header = (
        "recipe, batch, GB sent, s within a node, s between nodes, s to compute, GB per process, GB of a checkpoint"
    )
    return markdown_table(header.split(", "), rows)


def tables(recipes: list[Recipe]) -> list[str]:
    """The tables of docs/scaling.md."""
    computed = [parts_table(recipes), process_table(recipes), time_table(recipes)]
    return [*computed, paper_table(), campaign_table(), exchange_table()]


def measure(recipe: Recipe) -> dict[str, float]:
    """Bytes of two training steps in one process: computed, and the peak that was measured.

    The codes are drawn at random, so that no RQ-VAE and no pictures are needed.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, batch = recipe.config, recipe.batch_size

    def train() -> None:
        model = RQTransformerForImageGeneration(config).to(device).train()
        if recipe.checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        input_ids = torch.randint(config.vocab_size, (batch, config.condition_length), device=device)
        codes = torch.randint(config.codebook_size, (batch, *config.code_shape), device=device)
        residuals = torch.randn(batch, *config.code_shape, config.codebook_dim, device=device)
        for _ in range(2):  # the second has Adam's states from the start
            with torch.autocast(device, torch.bfloat16):
                loss = model(input_ids, codes, residuals=residuals, label_temperature=0.5).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)  # as gradients that are accumulated stay

    computed = recipe.state_bytes("DDP", 1) + recipe.activation_bytes(recipe.checkpointing)
    computed += 4 * config.codebook_size * config.codebook_dim
    measured = extra_memory(train, device)
    if measured is None:
        raise ValueError("`measure` needs a GPU, or the peak of memory in /proc, got neither.")
    return {"computed": computed, "measured": 2**20 * measured}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    printing = commands.add_parser("tables", help="the computed tables")
    printing.add_argument("configs", nargs="*", type=Path, metavar="CONFIG.json")
    measuring = commands.add_parser("measure", help="a few training steps")
    measuring.add_argument("config", type=Path, metavar="CONFIG.json|FOLDER")
    measuring.add_argument("--batch_size", type=int, help="pictures per process (the recipe's, or 16)")
    measuring.add_argument("--gradient_checkpointing", action="store_true", default=None)
    for name in MODEL_FIELDS:
        measuring.add_argument(f"--{name}", type=int, help="of the model (the recipe's)")
    arguments = parser.parse_args(argv)
    if arguments.command == "measure" and arguments.batch_size is not None and arguments.batch_size < 1:
        parser.error(f"`--batch_size` must be at least 1, got {arguments.batch_size}.")
    return arguments


def measured_recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe, or a saved model's architecture, with what the command line changes of it."""
    if arguments.config.is_dir():
        subfolder = component_subfolder(arguments.config, "transformer")
        kind = PreTrainedConfig.get_config_dict(arguments.config, subfolder=subfolder)[0].get("model_type")
        if kind != RQTransformerConfig.model_type:
            raise ValueError(
                f"`FOLDER` must hold a pipeline or a {RQTransformerConfig.model_type!r}, got a {kind!r} in "
                f"{str(arguments.config)!r}."
            )
        config = RQTransformerConfig.from_pretrained(arguments.config, subfolder=subfolder)
        recipe = Recipe(arguments.config.name, config, None, batch_size=16, checkpointing=False)
    else:
        recipe = replace(Recipe.load(arguments.config), rqvae=None)
    fields = {name: getattr(arguments, name) for name in MODEL_FIELDS if getattr(arguments, name) is not None}
    changed = {"config": RQTransformerConfig(**(recipe.config.to_diff_dict() | fields))} if fields else {}
    if arguments.batch_size is not None:
        changed["batch_size"] = arguments.batch_size
    if arguments.gradient_checkpointing is not None:
        changed["checkpointing"] = arguments.gradient_checkpointing
    return replace(recipe, **changed)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.command == "tables":
        recipes = [Recipe.load(path) for path in arguments.configs] or paper_recipes()
        print("\n\n".join(tables(recipes)))
        return
    recipe = measured_recipe(arguments)
    result = measure(recipe)
    print(f"{recipe.parameters:,} parameters, batch {recipe.batch_size}, checkpointing {recipe.checkpointing}")
    print(", ".join(f"{name} {value / 1e9:.2f} GB" for name, value in result.items()))


if __name__ == "__main__":
    try:
        main()
    except INPUT_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
