# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The RQ-VAE model: sizes, encoding and decoding, losses, checkpointing, precision, bad input; both models' files."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from rq_hf import RQTransformerForImageGeneration, RQVAEConfig, RQVAEImageProcessor, RQVAEImageProcessorPil, RQVAEModel


def gradients_of(model, pixel_values):
    model.zero_grad()
    model(pixel_values).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    "fields, parameters, codebook",
    [
        ({}, 100.207, 4.194),
        ({"attention_levels": [4], "codebook_size": 2048}, 100.732 - 0.524, 0.524),  # FFHQ
        ({"codebook_size": 4096, "shared_codebook": False}, 100.207, 4 * 1.049),
    ],
)
def test_models_have_the_published_sizes(fields, parameters, codebook):
    with torch.device("meta"):
        model = RQVAEModel(RQVAEConfig(**fields))
    assert model.num_parameters() / 1e6 == pytest.approx(parameters, abs=1e-3)
    assert model.codebook.numel() / 1e6 == pytest.approx(codebook, abs=2e-3)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_forward_equals_decoding_the_encoded_pictures(make_rqvae, pictures, shared):
    model = make_rqvae(shared_codebook=shared)
    assert model.codebook.shape == ((1 if shared else 3), 32, 8)
    codes, output = model.encode(pictures), model(pictures)
    assert codes.shape == (8, 4, 4, 3) and codes.unique().numel() > 10
    assert torch.equal(torch.cat([model.encode(picture[None]) for picture in pictures]), codes)  # alone, as in a batch
    assert torch.equal(output.codes, codes)
    torch.testing.assert_close(model.decode(codes), output.reconstruction, rtol=0, atol=1e-5)


def test_the_loss_is_the_squared_error_and_the_weighted_commitment_and_reaches_every_parameter(make_rqvae, pictures):
    model = make_rqvae(commitment_weight=0.7)
    output = model(pictures)
    error = (output.reconstruction - pictures).square().mean()
    torch.testing.assert_close(output.reconstruction_loss, error)
    _, _, commitment = model.quantizer(model.encode_latents(pictures))
    torch.testing.assert_close(output.commitment_loss, commitment)
    torch.testing.assert_close(output.loss, error + 0.7 * commitment)
    gradients = gradients_of(model, pictures)
    assert all(gradient.abs().max() > 0 for name, gradient in gradients.items() if not name.endswith("to_k.bias"))


def test_the_codebook_follows_the_batch_only_if_asked_to(make_rqvae, pictures):
    model = make_rqvae().train()
    for rule, updates in ((None, 0), ("per_step", 1), ("per_depth", 3)):  # the official rule has one after each depth
        before, num_before = model.codebook.clone(), model.quantizer.num_updates.item()
        model(pictures, codebook_update=rule)
        assert torch.equal(model.codebook, before) == (rule is None)
        assert model.quantizer.num_updates.item() == num_before + updates


def test_any_size_that_the_factor_divides_is_taken(tiny_rqvae):
    for height, width in [(16, 16), (8, 24), (4, 4), (20, 12)]:
        pixels = torch.rand(2, 3, height, width) * 2 - 1
        codes = tiny_rqvae.encode(pixels)
        assert codes.shape == (2, height // 4, width // 4, 3)
        assert tiny_rqvae.decode(codes).shape == pixels.shape
        assert tiny_rqvae(pixels).reconstruction.shape == pixels.shape


def test_the_first_depths_decode_to_the_picture_of_their_partial_sum(tiny_rqvae, pictures):
    latents = tiny_rqvae.encode_latents(pictures)
    codes, residuals = tiny_rqvae.quantize(latents)
    assert torch.equal(codes, tiny_rqvae.encode(pictures))
    for depth in (1, 2):
        partial_sum = (latents - residuals[..., depth, :]).permute(0, 3, 1, 2)
        expected = tiny_rqvae.decoder(tiny_rqvae.post_quant_conv(partial_sum))
        torch.testing.assert_close(tiny_rqvae.decode(codes[..., :depth]), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(tiny_rqvae.decode(codes[..., :1]), tiny_rqvae.decode(codes), atol=1e-3)


def test_encoding_and_decoding_make_no_graph_and_latents_do(tiny_rqvae, pictures):
    codes = tiny_rqvae.encode(pictures)
    assert not tiny_rqvae.decode(codes).requires_grad
    latents = tiny_rqvae.encode_latents(pictures)  # without gradients the towers read other layouts
    assert latents.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(tiny_rqvae.encode_latents(pictures), latents, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("options", [None, {"use_reentrant": True}], ids=["default", "reentrant"])
def test_gradient_checkpointing_recomputes_and_changes_nothing(make_rqvae, pictures, options):
    model = make_rqvae().train()
    calls = []
    for block in (model.encoder.down_blocks[0], model.encoder.mid_block, model.decoder.mid_block):
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    expected = gradients_of(model, pictures)
    assert len(calls) == 3
    model.gradient_checkpointing_enable(options)
    torch.testing.assert_close(gradients_of(model, pictures), expected)
    assert len(calls) == 3 + 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_quantizer_in_fp32(tiny_rqvae, pictures, tmp_path, dtype):
    buffers = {name: buffer.clone() for name, buffer in tiny_rqvae.named_buffers()}
    latents, reconstruction = tiny_rqvae.encode_latents(pictures), tiny_rqvae(pictures).reconstruction
    codes = tiny_rqvae.quantize(latents)[0]
    tiny_rqvae.save_pretrained(tmp_path / "single")
    loaded = RQVAEModel.from_pretrained(tmp_path / "single", dtype=dtype)
    loaded.save_pretrained(tmp_path / "half")
    for model in (loaded, RQVAEModel.from_pretrained(tmp_path / "half"), tiny_rqvae.to(dtype)):
        assert model.dtype == model.decoder.conv_in.weight.dtype == dtype
        for name, buffer in model.named_buffers():
            assert buffer.dtype == torch.float32 and torch.equal(buffer, buffers[name]), name
        assert torch.equal(model.quantize(latents)[0], codes)
        decoded = model.decode(model.encode(pictures))
        assert decoded.dtype == dtype and (decoded.float() - reconstruction).abs().mean() < 0.05
        assert model(pictures, codebook_update="per_step").loss.isfinite()
        model.quantizer.load_state_dict({name.removeprefix("quantizer."): b for name, b in buffers.items()})


@pytest.mark.parametrize(
    "method, shape, value, message",
    [
        ("encode", (1, 3, 16, 18), 0.0, r"shape \(batch_size, 3, height, width\) .* of 4, got \(1, 3, 16, 18\)"),
        *(("encode", shape, 0.0, "shape .*got ") for shape in [(1, 1, 16, 16), (3, 16, 16), (0, 3, 16, 16)]),
        ("encode", (1, 3, 16, 16), 1.5, r"in \[-1, 1\], got values from 1.5 to 1.5"),
        ("encode", (1, 3, 16, 16), 255, "a tensor of floats, got torch.int64"),
        ("encode", (1, 3, 16, 16), float("nan"), r"in \[-1, 1\], got values from nan"),
        *(
            ("decode", shape, 0, "shape .*depth from 1 to 3, got ")
            for shape in [(4, 4, 3), (1, 4, 4, 4), (1, 4, 4, 0)]
        ),
        ("decode", (1, 4, 4, 3), 0.0, "integers, got torch.float32"),
        ("decode", (1, 4, 4, 3), True, "integers, got torch.bool"),
        ("decode", (1, 4, 4, 3), 32, r"in \[0, 32\), got values from 32 to 32"),
        ("decode", (1, 4, 4, 3), -1, r"in \[0, 32\), got values from -1"),
    ],
)
def test_what_are_no_pictures_or_codes_is_refused(tiny_rqvae, method, shape, value, message):
    name = {"encode": "pixel_values", "decode": "codes"}[method]
    with pytest.raises(ValueError, match=f"`{name}` must (be|have) {message}"):
        getattr(tiny_rqvae, method)(torch.full(shape, value))


def test_latents_that_are_not_finite_get_no_codes(tiny_rqvae, pictures):
    tiny_rqvae.encoder.conv_in.weight.data.mul_(1e6)
    assert len(tiny_rqvae.encode(pictures).unique()) > 1
    tiny_rqvae.half()  # too narrow
    for call in (tiny_rqvae.encode, lambda pixels: tiny_rqvae.quantize(tiny_rqvae.encode_latents(pixels))):
        with pytest.raises(ValueError, match="`latents` must be finite, got NaN or infinity in torch.float16"):
            call(pictures)


@pytest.fixture(params=["rqvae", "transformer"])
def make_model(request, make_rqvae, make_transformer):
    return {"rqvae": make_rqvae, "transformer": make_transformer}[request.param]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_a_saved_model_comes_back_bit_for_bit_and_without_a_warning(make_model, pictures, tmp_path, shared):
    model = make_model(shared_codebook=shared)
    codes = torch.randint(32, (2, 2, 3, 3))
    inputs = [pictures] if type(model) is RQVAEModel else [torch.zeros(2, 6, dtype=torch.long), codes, codes]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path, max_shard_size="40KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
        for loaded in (type(model).from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
            assert type(loaded) is type(model) and not loaded.training
            torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
            values = loaded(*inputs, return_dict=False)  # in the order of the fields
            assert len(values) == 5
            torch.testing.assert_close(values, model(*inputs).to_tuple(), rtol=0, atol=0)


def test_missing_truncated_and_pickled_files_are_errors(make_model, tmp_path):
    model = make_model()
    load = type(model).from_pretrained
    model.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    content = weights.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        weights.write_bytes(content[:size])
        with pytest.raises(SafetensorError, match="deserializing header"):
            load(tmp_path)
    weights.unlink()
    with pytest.raises(OSError, match="no file named model.safetensors"):
        load(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="no file named model.safetensors"):
        load(tmp_path)
    assert type(load(tmp_path, use_safetensors=False)) is type(model)  # only if asked to
    weights.write_bytes(content)
    config.unlink()
    with pytest.raises(OSError, match=r"config\.json"):
        load(tmp_path)
    with pytest.raises(OSError):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("load", [RQVAEModel.from_pretrained, AutoModel.from_pretrained], ids=["own", "auto"])
def test_weights_that_are_missing_or_do_not_fit_are_errors(tiny_rqvae, tmp_path, load):
    tiny_rqvae.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    bias = weights.pop("decoder.conv_out.bias")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="must hold all weights of RQVAEModel, but 1 .*`decoder.conv_out.bias`"):
        load(tmp_path)
    _, info = load(tmp_path, output_loading_info=True)  # the caller is told
    assert info["missing_keys"] == {"decoder.conv_out.bias"}
    save_file(weights | {"decoder.conv_out.bias": bias[:2]}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        load(tmp_path)
    load(tmp_path, ignore_mismatched_sizes=True)


def test_a_folder_of_another_kind_is_refused_before_anything_is_built(saved):
    for folder, expected, found in (("transformer", "rqvae", "rq_transformer"), ("rqvae", "rq_transformer", "rqvae")):
        model_class = {"rqvae": RQVAEModel, "rq_transformer": RQTransformerForImageGeneration}[expected]
        message = f"'{saved / folder}' must hold a model of `model_type` '{expected}', got '{found}'"
        for load in (model_class.from_pretrained, model_class.config_class.from_pretrained):
            with pytest.raises(ValueError, match=message):
                load(saved / folder)
        with pytest.raises(OSError, match=f"'{saved}' must hold a config.json, got none. .* pipeline .*`subfolder`"):
            model_class.from_pretrained(saved)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("backend", ["pil", "torchvision"])
def test_a_saved_model_brings_its_image_processor(make_rqvae, tmp_path, num_channels, backend):
    model = make_rqvae(num_channels=num_channels)
    model.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(processor) is {"pil": RQVAEImageProcessorPil, "torchvision": RQVAEImageProcessor}[backend]
    noise = np.random.default_rng(0).integers(256, size=(16, 16, num_channels), dtype=np.uint8)
    picture = Image.fromarray(noise.squeeze())
    pixel_values = processor(picture, return_tensors="pt").pixel_values
    expected = torch.tensor(noise).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(pixel_values, expected)
    assert model.encode(processor(picture.resize((30, 20)), return_tensors="pt").pixel_values).shape[:3] == (1, 4, 4)
    processor.save_pretrained(tmp_path / "again")  # a file of either is one of both
    again = AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert type(again) is RQVAEImageProcessor and again.to_dict() == processor.to_dict()


def test_the_shipped_model_brings_its_image_processor():
    folder = Path(__file__).parents[2] / "checkpoints" / "emoji-64" / "rqvae"
    expected = RQVAEImageProcessor.from_rqvae_config(RQVAEConfig.from_pretrained(folder))
    assert AutoImageProcessor.from_pretrained(folder).to_dict() == expected.to_dict()
