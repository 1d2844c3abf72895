# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Measures the memory that the conversion of a checkpoint of full size takes.

    python tests/convert_memory.py imagenet-rqt-8x8x4-3.8B FOLDER

writes a synthetic official checkpoint of this size (a name of scripts/configs) into FOLDER, converts it there, prints
seconds and peak of anonymous memory, and removes both. For 3.8B the folder takes 32 GB.
"""

import json
import math
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from official_fixture import RQVAE, TRANSFORMER, changed, rqvae_shapes, transformer_shapes, write_stage
from transformers.utils.logging import disable_progress_bar

from rq_hf.conversion import convert_checkpoint

CONFIGS = Path(__file__).parents[1] / "scripts" / "configs"


def official_configs(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The official configurations of a transformer of scripts/configs and of its RQ-VAE."""
    preset = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    model = preset["model"]
    rqvae = json.loads((CONFIGS / f"{preset['card']['rqvae']}.json").read_text(encoding="utf-8"))["model"]
    side = rqvae["image_size"] // 2 ** (len(rqvae["channel_multiplier"]) - 1)
    stage1 = changed(
        RQVAE,
        {
            "arch.hparams.embed_dim": rqvae["codebook_dim"],
            "arch.hparams.n_embed": rqvae["codebook_size"],
            "arch.hparams.latent_shape": [side, side, rqvae["codebook_dim"]],
            "arch.hparams.code_shape": [side, side, rqvae["code_depth"]],
            "arch.ddconfig.z_channels": rqvae["latent_channels"],
            "arch.ddconfig.resolution": rqvae["image_size"],
            "arch.ddconfig.ch": rqvae["base_channels"],
            "arch.ddconfig.ch_mult": rqvae["channel_multiplier"],
            "arch.ddconfig.num_res_blocks": rqvae["num_res_blocks"],
            "arch.ddconfig.attn_resolutions": [rqvae["image_size"] // 2**level for level in rqvae["attention_levels"]],
        },
    )
    stage2 = changed(
        TRANSFORMER,
        {
            "dataset.vocab_size": model["codebook_size"],
            "arch.block_size": model["code_shape"],
            "arch.embed_dim": model["hidden_size"],
            "arch.input_embed_dim": model["codebook_dim"],
            "arch.vocab_size_cond": model["vocab_size"],
            "arch.block_size_cond": model["condition_length"],
            "arch.body": {"n_layer": model["num_spatial_layers"], "block": {"n_head": model["num_attention_heads"]}},
            "arch.head": {"n_layer": model["num_depth_layers"], "block": {"n_head": model["num_attention_heads"]}},
        },
    )
    return stage1, stage2


def official_shapes(name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Names and shapes of the official weights of a transformer of scripts/configs and of its RQ-VAE."""
    stage1, stage2 = official_configs(name)
    return rqvae_shapes(stage1["arch"]), transformer_shapes(stage2["arch"], stage2["dataset"]["vocab_size"])


def write_synthetic_checkpoint(name: str, folder: Path) -> int:
    """Writes the checkpoint, its tensors cut from one block of random numbers; returns its bytes."""
    for stage, config, shapes in zip(("stage1", "stage2"), official_configs(name), official_shapes(name), strict=True):
        block = np.random.default_rng(0).random(max(map(math.prod, shapes.values())) + 1000, dtype=np.float32)
        weights = {}
        for index, (key, shape) in enumerate(shapes.items()):
            first = re.sub(r"codebooks\.\d+", "codebooks.0", key)  # all depths have one codebook
            numbers = block[index % 1000 :][: math.prod(shape)]
            weights[key] = weights.get(first, torch.from_numpy(numbers).view(shape))
        write_stage(folder / stage, config, weights)
    return sum(path.stat().st_size for path in folder.rglob("model.pt"))


class AnonymousMemory:
    """Samples the anonymous memory of this process while the block runs; `peak` and `start` are in bytes."""

    def __enter__(self) -> "AnonymousMemory":
        self.start = self.peak = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def main(name: str, folder: str) -> None:
    disable_progress_bar()
    source, output = Path(folder) / "source", Path(folder) / "converted"
    try:
        start = time.perf_counter()
        size = write_synthetic_checkpoint(name, source)
        print(f"{size / 1e9:.1f} GB written in {time.perf_counter() - start:.0f} s", flush=True)
        os.sync()
        start = time.perf_counter()
        with AnonymousMemory() as memory:
            convert_checkpoint(source, output)
        files = sorted(path.relative_to(output) for path in output.rglob("*.safetensors"))
        print(f"converted in {time.perf_counter() - start:.0f} s to {len(files)} files of weights")
        print(f"RssAnon: {memory.start / 2**30:.2f} GiB before, {memory.peak / 2**30:.2f} GiB at its peak")
    finally:
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
