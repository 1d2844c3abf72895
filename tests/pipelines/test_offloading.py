# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Models draw the same when their weights lie elsewhere: accelerate's device maps and diffusers' group offloading."""

import diffusers
import pytest
import torch
from packaging.version import Version

from rq_hf import RQTransformerForImageGeneration, RQVAEModel


@pytest.fixture
def inputs(make_transformer, make_rqvae, pictures):
    """Both models, a function that uses them, and what it returns."""
    rqvae = make_rqvae()
    transformer = make_transformer("text", rqvae)
    input_ids = torch.tensor([[3, 4, 5, 0, 0, 0], [7, 8, 0, 0, 0, 0]])
    codes = rqvae.encode(pictures)

    def use(transformer: RQTransformerForImageGeneration, rqvae: RQVAEModel) -> list[torch.Tensor]:
        drawn = transformer.generate(input_ids, generator=torch.Generator().manual_seed(0))
        likelihoods = [transformer.log_likelihood(input_ids, drawn, depth) for depth in (1, 2)]
        return [drawn, *likelihoods, rqvae.encode(pictures), rqvae.decode(codes)]

    return transformer, rqvae, use, use(transformer, rqvae)


@pytest.mark.parametrize("offload_buffers", [False, True])
def test_models_on_disk_draw_the_same(inputs, tmp_path, offload_buffers):
    transformer, rqvae, use, expected = inputs
    loaded = []
    for name, model in {"transformer": transformer, "rqvae": rqvae}.items():
        model.save_pretrained(tmp_path / name)
        options = dict(offload_folder=tmp_path / f"{name}-weights", offload_buffers=offload_buffers)
        loaded.append(type(model).from_pretrained(tmp_path / name, device_map={"": "disk"}, **options))
        assert all(parameter.is_meta for parameter in loaded[-1].parameters())
    for got, wanted in zip(use(*loaded), expected, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.skipif(
    Version(diffusers.__version__) < Version("0.42") and not torch.accelerator.is_available(),
    reason="group offloading of this diffusers needs an accelerator",
)
@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_group_offloading_draws_the_same(inputs, tmp_path, offload_type):
    """The weights in the models are NaN until a hook brings those on the disk."""
    transformer, rqvae, use, expected = inputs
    device = torch.device("cpu")
    for name, model in {"transformer": transformer, "rqvae": rqvae}.items():
        options = dict(offload_type=offload_type, num_blocks_per_group=1, offload_to_disk_path=str(tmp_path / name))
        diffusers.hooks.apply_group_offloading(model, device, device, **options)
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.data = torch.full_like(tensor, float("nan"))
    for got, wanted in zip(use(transformer, rqvae), expected, strict=True):
        assert torch.equal(got, wanted)
