# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Weights that lie elsewhere while they are not used: accelerate's device maps and diffusers' group offloading."""

import diffusers
import pytest
import torch
from packaging.version import Version

from rq_hf import RQTransformerForImageGeneration, RQVAEModel


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def inputs(make_transformer, make_rqvae, pictures):
    """Both models, and what they make of a condition and of pictures."""
    rqvae = make_rqvae()
    transformer = make_transformer("text", rqvae)
    input_ids = torch.tensor([[3, 4, 5, 0, 0, 0], [7, 8, 0, 0, 0, 0]])
    codes = rqvae.encode(pictures)

    def make(transformer: RQTransformerForImageGeneration, rqvae: RQVAEModel) -> list[torch.Tensor]:
        drawn = transformer.generate(input_ids, generator=seeded())
        likelihoods = [transformer.log_likelihood(input_ids, drawn, depth) for depth in (1, 2)]
        return [drawn, *likelihoods, rqvae.encode(pictures), rqvae.decode(codes)]

    return transformer, rqvae, make, make(transformer, rqvae)


@pytest.mark.parametrize("offload_buffers", [False, True])
def test_models_on_disk_draw_the_same(inputs, tmp_path, offload_buffers):
    transformer, rqvae, make, expected = inputs
    loaded = []
    for name, model in {"transformer": transformer, "rqvae": rqvae}.items():
        model.save_pretrained(tmp_path / name)
        loaded.append(
            type(model).from_pretrained(
                tmp_path / name, device_map={"": "disk"}, offload_folder=tmp_path / f"{name}-weights",
                offload_buffers=offload_buffers,
            )
        )  # fmt: skip
        assert all(parameter.is_meta for parameter in loaded[-1].parameters())
    for got, wanted in zip(make(*loaded), expected, strict=True):
        assert torch.equal(got, wanted)
    input_ids = torch.tensor([[3, 4, 5, 0, 0, 0]])
    codes = expected[0][:1]
    assert torch.equal(loaded[0](input_ids, codes).logits, transformer(input_ids, codes).logits)


@pytest.mark.skipif(
    Version(diffusers.__version__) < Version("0.42") and not torch.accelerator.is_available(),
    reason="group offloading of this diffusers needs an accelerator",
)
@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_group_offloading_draws_the_same(inputs, tmp_path, offload_type):
    """Weights are only read from where they were put: those in the model are NaN until a hook brings them."""
    transformer, rqvae, make, expected = inputs
    device = torch.device("cpu")
    for name, model in {"transformer": transformer, "rqvae": rqvae}.items():
        diffusers.hooks.apply_group_offloading(
            model, device, device, offload_type=offload_type, num_blocks_per_group=1,
            offload_to_disk_path=str(tmp_path / name),
        )  # fmt: skip
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.data = torch.full_like(tensor, float("nan"))
    for got, wanted in zip(make(transformer, rqvae), expected, strict=True):
        assert torch.equal(got, wanted)


def test_a_model_cut_in_pieces_is_refused(make_transformer):
    model = make_transformer("none")
    model.hf_device_map = {"spatial_transformer": 0, "depth_transformer": "cpu"}
    model.generate(torch.zeros(1, 1, dtype=torch.long))
    model.hf_device_map = {"spatial_transformer": 0, "depth_transformer": 1}
    with pytest.raises(ValueError, match="one accelerator, got a `device_map` over 0, 1"):
        model.generate(torch.zeros(1, 1, dtype=torch.long))


def test_every_child_is_a_block_of_group_offloading(make_transformer, make_rqvae):
    """As `generate`, `encode` and `decode` do not call `forward`, on whose hook all else would hang."""
    for kind, model in ((RQTransformerForImageGeneration, make_transformer("text")), (RQVAEModel, make_rqvae())):
        assert {name for name, _ in model.named_children()} <= set(kind._group_offload_block_modules)
