# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tiny checkpoints in the official format, and what the official code makes of them.

The weights come from a seed, so that only the outputs of the official code are stored, in
fixtures/official/expected.safetensors. They were recorded from commit 341395e of kakaobrain/rq-vae-transformer, with
omegaconf and easydict installed, by

    python tests/official_fixture.py PATH_OF_THE_OFFICIAL_CODE
"""

import copy
import importlib.util
import math
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

EXPECTED = Path(__file__).parent / "fixtures" / "official" / "expected.safetensors"
NUM_PICTURES = 2

RQVAE = {
    "dataset": {"type": "imagenet", "transforms": {"type": "imagenet256x256"}},
    "arch": {
        "type": "rq-vae",
        "code_hier": 1,
        "hparams": {
            "bottleneck_type": "rq",
            "embed_dim": 16,
            "n_embed": 64,
            "latent_shape": [4, 4, 16],
            "code_shape": [4, 4, 4],
            "shared_codebook": True,
            "decay": 0.99,
            "restart_unused_codes": True,
            "loss_type": "mse",
            "latent_loss_weight": 0.25,
        },
        "ddconfig": {
            "double_z": False,
            "z_channels": 24,
            "resolution": 16,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 1, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [4],
            "dropout": 0.0,
        },
        "checkpointing": True,
    },
    "experiment": {"batch_size": 32, "epochs": 10},
}
TRANSFORMER = {
    "dataset": {"type": "imagenet", "vocab_size": 64},
    "arch": {
        "type": "rq-transformer",
        "block_size": [4, 4, 4],
        "embed_dim": 32,
        "input_embed_dim": 16,
        "shared_tok_emb": True,
        "shared_cls_emb": True,
        "input_emb_vqvae": True,
        "head_emb_vqvae": True,
        "cumsum_depth_ctx": True,
        "vocab_size_cond": 1,
        "block_size_cond": 1,
        "body": {"n_layer": 2, "block": {"n_head": 4}},
        "head": {"n_layer": 1, "block": {"n_head": 4}},
    },
    "loss": {"type": "soft_target_cross_entropy", "stochastic_codes": True, "temp": 0.5},
    "experiment": {"amp": True, "epochs": 100, "sample": {"top_k": 64, "top_p": 0.92}},
}
# What each kind changes; dotted keys are paths into the two configurations.
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cc3m": (
        {},
        {
            "dataset": {"dataset": "cc3m", "txt_tok_name": "bpe16k_huggingface", "context_length": 6},
            "arch.vocab_size": 64,
            "arch.vocab_size_cond": 40,
            "arch.block_size_cond": 6,
            "loss.txt_weight": 0.2,
            "loss.img_weight": 0.8,
            "sampling": {"temp": 0.9, "top_k": [32], "top_p": [0.7, 0.8, 0.9, 1.0]},
        },
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
    # No configuration in the official repository has a codebook for each depth or this GELU, but its code knows both.
    "separate": (
        {"arch.hparams.shared_codebook": False},
        {"dataset": {"type": "LSUN-cat", "vocab_size": 64}, "arch.body.block.gelu": "v2",
         "arch.head.block.gelu": "v2"},
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


def rqvae_shapes(arch: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an official RQ-VAE, by its `arch`."""
    hparams, dd = arch["hparams"], arch["ddconfig"]
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def block(name: str, before: int, after: int) -> None:
        layer(f"{name}.norm1", before)
        layer(f"{name}.conv1", after, before, 3, 3)
        layer(f"{name}.norm2", after)
        layer(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            layer(f"{name}.nin_shortcut", after, before, 1, 1)

    def attention(name: str, width: int) -> None:
        layer(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{part}", width, width, 1, 1)

    def middle(name: str, width: int) -> None:
        block(f"{name}.mid.block_1", width, width)
        attention(f"{name}.mid.attn_1", width)
        block(f"{name}.mid.block_2", width, width)

    widths = [dd["ch"] * factor for factor in dd["ch_mult"]]
    last = len(widths) - 1
    with_attention = [dd["resolution"] // 2**level in dd["attn_resolutions"] for level in range(len(widths))]
    layer("encoder.conv_in", dd["ch"], dd["in_channels"], 3, 3)
    width = dd["ch"]
    for level in range(len(widths)):
        for index in range(dd["num_res_blocks"]):
            block(f"encoder.down.{level}.block.{index}", width, widths[level])
            width = widths[level]
            if with_attention[level]:
                attention(f"encoder.down.{level}.attn.{index}", width)
        if level < last:
            layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    middle("encoder", width)
    layer("encoder.norm_out", width)
    layer("encoder.conv_out", dd["z_channels"], width, 3, 3)

    layer("decoder.conv_in", width, dd["z_channels"], 3, 3)
    middle("decoder", width)
    for level in reversed(range(len(widths))):
        for index in range(dd["num_res_blocks"] + 1):
            block(f"decoder.up.{level}.block.{index}", width, widths[level])
            width = widths[level]
            if with_attention[level]:
                attention(f"decoder.up.{level}.attn.{index}", width)
        if level > 0:
            layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    layer("decoder.norm_out", width)
    layer("decoder.conv_out", dd["out_ch"], width, 3, 3)

    layer("quant_conv", hparams["embed_dim"], dd["z_channels"], 1, 1)
    layer("post_quant_conv", dd["z_channels"], hparams["embed_dim"], 1, 1)
    size, dim = hparams["n_embed"], hparams["embed_dim"]
    for depth in range(hparams["code_shape"][2]):
        codebook = f"quantizer.codebooks.{depth}"
        shapes[f"{codebook}.weight"] = (size + 1, dim)
        shapes[f"{codebook}.cluster_size_ema"] = (size,)
        shapes[f"{codebook}.embed_ema"] = (size, dim)
    return shapes


def transformer_shapes(arch: dict[str, Any], codebook_size: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an official RQ-Transformer, by its `arch`."""
    width, length = arch["embed_dim"], arch["block_size_cond"]
    height, columns, depth = arch["block_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "pos_emb_cond": (1, length, width),
        "pos_emb_hw": (1, height * columns, width),
        "pos_emb_d": (1, depth, width),
        "cond_emb.weight": (arch["vocab_size_cond"], width),
    }

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    layer("input_mlp", width, arch["input_embed_dim"])
    layer("head_mlp", width, arch["input_embed_dim"])
    for stack in ("body", "head"):
        for index in range(arch[stack]["n_layer"]):
            name = f"{stack}_transformer.blocks.{index}"
            layer(f"{name}.ln1", width)
            layer(f"{name}.ln2", width)
            for part in ("key", "query", "value", "proj"):
                layer(f"{name}.attn.{part}", width, width)
            layer(f"{name}.mlp.0", 4 * width, width)
            layer(f"{name}.mlp.2", width, 4 * width)
    layer("classifier.layer_norm", width)
    layer("classifier.linear", codebook_size, width)
    if length > 1:
        layer("cond_classifier.layer_norm", width)
        layer("cond_classifier.linear", arch["vocab_size_cond"], width)
    return shapes


def uniform(random: np.random.RandomState, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """Uniform in [-scale, scale], the same on every machine."""
    return torch.from_numpy((random.random_sample(shape) * 2 - 1) * scale).float()


def state_dicts(kind: str, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of stage 1 and stage 2 in the official layout, none of them zero, and a codebook like a trained one."""
    rqvae, transformer = configs(kind)
    random = np.random.RandomState(seed)
    size = rqvae["arch"]["hparams"]["n_embed"]
    states = []
    for shapes in (rqvae_shapes(rqvae["arch"]), transformer_shapes(transformer["arch"], size)):
        state = {}
        for name, shape in sorted(shapes.items()):
            if len(shape) == 1:
                state[name] = uniform(random, shape, 0.2) + name.endswith("weight")
            elif name == "cond_emb.weight" or name.startswith("pos_emb"):
                state[name] = uniform(random, shape, 1.0)
            else:
                state[name] = uniform(random, shape, math.sqrt(3 / math.prod(shape[1:])))
        states.append(state)
    state, hparams = states[0], rqvae["arch"]["hparams"]
    for depth in range(hparams["code_shape"][2]):
        name, first = f"quantizer.codebooks.{depth}", "quantizer.codebooks.0"
        if depth and hparams["shared_codebook"]:
            for buffer in ("weight", "cluster_size_ema", "embed_ema"):
                state[f"{name}.{buffer}"] = state[f"{first}.{buffer}"]
            continue
        norms = torch.tensor([2.0 ** -(row % 4) for row in range(size)])  # coarse codes and finer ones
        state[f"{name}.weight"] = uniform(random, (size + 1, hparams["embed_dim"]), 1.0)
        state[f"{name}.weight"][:size] *= norms[:, None]
        state[f"{name}.weight"][size] = 0.0  # padding
        state[f"{name}.cluster_size_ema"] = uniform(random, (size,), 20.0) + 30
        state[f"{name}.embed_ema"] = state[f"{name}.weight"][:size] * state[f"{name}.cluster_size_ema"][:, None]
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


def write_stage(folder: Path, config: dict[str, Any], state_dict: dict[str, torch.Tensor], **others: Any) -> Path:
    """Writes `model.pt` and `config.yaml` into `folder` as the official training code does; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    torch.save({"epoch": 3, "state_dict": state_dict, **others}, folder / "model.pt")
    return folder


def write_checkpoint(folder: Path, kind: str) -> Path:
    """Writes both stages of a kind into `folder` and returns it."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=1e-3)
    scheduler = {"warmup": None, "after": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5).state_dict()}
    others = {"optimizer": optimizer.state_dict(), "scheduler": scheduler}
    for stage, config, state_dict in zip(("stage1", "stage2"), configs(kind), state_dicts(kind), strict=True):
        write_stage(folder / stage, config, state_dict, **others)
    return folder


def write_archive(folder: Path, archive: Path) -> Path:
    """Packs a checkpoint folder as the released ones are packed; returns `archive`."""
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    return archive


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


@torch.no_grad()
def record(kind: str, create_model: Any, augment_arch_defaults: Any) -> dict[str, torch.Tensor]:
    """Codes, pictures of each partial depth, logits and greedy samples of the official code."""
    from omegaconf import OmegaConf

    models = []
    for config, state_dict in zip(configs(kind), state_dicts(kind), strict=True):
        arch = OmegaConf.create({"vocab_size": config["dataset"].get("vocab_size"), **config["arch"]})
        if arch.type == "rq-vae":
            del arch.vocab_size
        model, _ = create_model(augment_arch_defaults(arch))
        model.load_state_dict(state_dict, strict=True)
        models.append(model.eval())
    rqvae, transformer = models
    codes = rqvae.get_codes(pictures(kind))
    depth = codes.shape[-1]
    logits = transformer(codes, rqvae, cond=condition(kind))
    logits, text_logits = logits if isinstance(logits, tuple) else (logits, None)
    recorded = {
        "codes": codes,
        "pictures": torch.stack([rqvae.decode_partial_code(codes, index, "add") for index in range(depth)]),
        "logits": logits,
        "greedy": transformer.sample(torch.zeros_like(codes), rqvae, cond=condition(kind), top_k=1),
    }
    if text_logits is not None:
        recorded["text_logits"] = text_logits
    return {f"{kind}.{name}": value.contiguous() for name, value in recorded.items()}


def training_latents() -> list[torch.Tensor]:
    """Latents of three training steps, `(2, 4, 4, 8)` each."""
    random = np.random.RandomState(7)
    return [torch.from_numpy(random.standard_normal((2, 4, 4, 8)).astype("float32")) for _ in range(3)]


def initial_codebook(num_codebooks: int, codebook_size: int) -> torch.Tensor:
    """Code vectors that a training starts from, `(num_codebooks, codebook_size, 8)`."""
    random = np.random.RandomState(codebook_size)
    return torch.from_numpy(random.standard_normal((num_codebooks, codebook_size, 8)).astype("float32"))


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
    recorded = {name: value for kind in CHANGES for name, value in record(kind, *official).items()}
    recorded |= record_training()
    EXPECTED.parent.mkdir(parents=True, exist_ok=True)
    save_file(recorded, EXPECTED, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main(*sys.argv[1:])
