# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
from hub_server import hub  # noqa: F401  starts the local Hub and sets HF_ENDPOINT, which clients read at import

# isort: split
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from rq_hf import (
    ContextualRQTransformerForImageGeneration,
    RQImageGenerationPipeline,
    RQTransformerForImageGeneration,
    RQVAEConfig,
    RQVAEModel,
    train_caption_tokenizer,
)

torch.set_num_threads(1)
logging.disable_progress_bar()


PROMPT = "a red heart"
CAPTIONS = ["a red heart, twemoji style", "green apple, noto style", "a pizza of cheese", "rocket, 3d style"]
RQVAE_FIELDS = dict(
    image_size=16, base_channels=8, channel_multiplier=(1, 2, 2), num_res_blocks=1, attention_levels=(2,),
    latent_channels=8, norm_num_groups=4, codebook_size=32, codebook_dim=8, code_depth=3,
)  # fmt: skip
# A large `initializer_range` makes predictions that depend visibly on what was drawn before.
TRANSFORMER_FIELDS = dict(
    code_shape=(2, 3, 3), codebook_size=32, codebook_dim=8, hidden_size=32, num_spatial_layers=2, num_depth_layers=2,
    num_attention_heads=4, initializer_range=0.3,
)  # fmt: skip
CONDITION_FIELDS = {
    "text": dict(vocab_size=80, condition_length=6, pad_token_id=0, null_condition_ids=(0,) * 6),
    "class": dict(
        vocab_size=5,
        condition_length=1,
        null_condition_ids=(4,),
        id2label={0: "tabby, tabby cat", 1: "goose", 2: "goldfish, Carassius auratus", 3: "volcano"},
    ),
    "none": dict(vocab_size=1, condition_length=1),
    "embeds": {"condition_dim": 5, "condition_length": 4},  # of a text encoder
}


class LeavesAMark:
    """Its pickle makes a file when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def seeded(*seeds: int):
    """A generator, or a list of one per seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


def draw(pipe, prompt: str | list[str] | None = PROMPT, **kwargs):
    """What a pipeline draws from seed 0: codes, unless told otherwise."""
    pipe.set_progress_bar_config(disable=True)
    return pipe(prompt, **{"generator": seeded(0), "output_type": "latent"} | kwargs).images


def assert_draws_alike(pipe, other) -> None:
    assert torch.equal(*(draw(each, output_type="pt") for each in (pipe, other)))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seeds torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture
def pictures() -> torch.Tensor:
    """Eight smooth pictures in [-1, 1]: `(8, 3, 16, 16)`."""
    coarse = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear", align_corners=True)


@pytest.fixture
def make_rqvae(pictures) -> Callable[..., RQVAEModel]:
    """Makes an RQ-VAE of 16x16 pictures and 4x4x3 codes whose codebook fits its latents; its weights are random."""

    def make(**fields) -> RQVAEModel:
        model = RQVAEModel(RQVAEConfig(**RQVAE_FIELDS | fields))
        with torch.no_grad():
            fitted = torch.cat([pictures, -pictures, pictures.flip(1)])
            latents = model.encode_latents(fitted[:, : model.config.num_channels])
            for _ in range(8):
                model.quantizer(latents, codebook_update="per_step")
        return model.eval()

    return make


@pytest.fixture
def make_transformer() -> Callable[..., RQTransformerForImageGeneration]:
    """Makes a random transformer of 2x3x3 codes, or of the codes of an `rqvae`."""

    def make(
        condition: str = "text", rqvae: RQVAEModel | None = None, contextual: bool = False, **fields
    ) -> RQTransformerForImageGeneration:
        fields = TRANSFORMER_FIELDS | CONDITION_FIELDS[condition] | fields
        model_class = ContextualRQTransformerForImageGeneration if contextual else RQTransformerForImageGeneration
        if rqvae is None:
            return model_class(model_class.config_class(**fields)).eval()
        for name in ("code_shape", "codebook_size", "codebook_dim"):
            fields.pop(name)
        model = model_class(model_class.config_class.from_rqvae_config(rqvae.config, **fields)).eval()
        model.set_codebook(rqvae.codebook)
        return model

    return make


@pytest.fixture
def tiny_rqvae(make_rqvae) -> RQVAEModel:
    return make_rqvae()


@pytest.fixture(params=["text", "class", "none"])
def tiny_transformer(request, make_transformer) -> RQTransformerForImageGeneration:
    """Transformers with each kind of condition: text, classes, none."""
    return make_transformer(request.param)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return train_caption_tokenizer(CAPTIONS, vocab_size=80, max_length=6)


@pytest.fixture
def make_pipeline(make_rqvae, make_transformer, tiny_tokenizer) -> Callable[..., RQImageGenerationPipeline]:
    """Makes a pipeline of tiny components for one kind of condition."""

    def make(condition: str = "text", **fields) -> RQImageGenerationPipeline:
        rqvae = make_rqvae()
        tokenizer = tiny_tokenizer if condition == "text" else None
        pipeline = RQImageGenerationPipeline(rqvae, make_transformer(condition, rqvae, **fields), tokenizer)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


@pytest.fixture
def tiny_pipeline(make_pipeline) -> RQImageGenerationPipeline:
    return make_pipeline()


@pytest.fixture
def saved(tiny_pipeline, tmp_path) -> Path:
    """The folder that the tiny pipeline is saved in."""
    tiny_pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"
