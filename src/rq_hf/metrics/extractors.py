# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Frozen nets that turn pictures into the features in which sets of pictures are compared.

Symbols: B pictures, F features of each. Pictures are integers from 0 to 255, of three channels.
"""

import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel

from ..features import EfficientNetLite0, FrozenModule, read_state_dict
from ..hub_cache import load_whole
from ..selection import processed

# Weights that are summed at once: 32 MiB in fp64.
DIGEST_BLOCK_ELEMENTS = 2**22
FEATURE_EXTRACTORS = ("efficientnet_lite0", "inception")


def weights_digest(module: torch.nn.Module) -> str:
    """Sixteen hexadecimal digits that tell one set of weights from another, on any device and in any dtype."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        tensor = tensor.detach()
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):  # of 8 bits, by torchao
            tensor = tensor.dequantize()
        for part in tensor.flatten().split(DIGEST_BLOCK_ELEMENTS) if tensor.numel() > 0 else ():
            part = part.cpu() if part.device.type == "mps" else part  # which has no fp64
            bits = part.double().view(torch.int64) if part.is_floating_point() else part.long()
            weights = torch.arange(1, 2 * len(bits), 2, device=bits.device)  # odd, so that no bit is lost
            digest.update(b"%d" % (bits * weights).sum().item())  # modulo 2^64, the same in any order of adding
    return digest.hexdigest()[:16]


def processor_digest(image_processor: Any) -> str:
    """A short text that tells one image processor from another, by what it makes of a picture."""
    picture = (torch.arange(3 * 48 * 64) % 251).to(torch.uint8).view(1, 3, 48, 64)
    values = processed(image_processor, picture).float()
    return f"{'x'.join(map(str, values.shape[1:]))} {values.mean():.3f} {values.std():.3f}"


class FeatureExtractor(FrozenModule):
    """
    A frozen net from pictures to features.

    Attributes:
        name (`str`): what distances in its features are named after.
        digest (`str`): tells its weights from others, see [`weights_digest`].
        image_processor_digest (`str`, *optional*): where it has an image processor, see [`processor_digest`].
    """

    name: str
    digest: str
    image_processor_digest: str | None = None

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features `(B, F)` of uint8 pictures `(B, 3, height, width)`."""
        raise NotImplementedError


class InceptionFeatures(FeatureExtractor):
    """The 2,048 features of Inception v3 in which FID is measured: torch-fidelity's, with TensorFlow's resizing.

    Args:
        weights (`str` or `Path`, *optional*):
            File of torch-fidelity's weights (`weights-inception-2015-12-05-6726825d.pth`), or of a state dict with
            their names; `None` downloads them.

    Raises:
        `ImportError`: torch-fidelity is not installed.
        `ValueError`: `weights` does not exist or does not fit.
        `OSError`: the download failed.
    """

    name = "inception"

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
        except ImportError as error:
            raise ImportError('FID needs torch-fidelity, which `pip install "rq_hf[eval]"` installs.') from error
        file = None
        if weights is not None:
            file = io.BytesIO()  # torch-fidelity would unpickle whatever the file holds; this holds tensors alone
            torch.save(read_state_dict(weights), file)
            file.seek(0)
        try:
            self.net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], file)
        except OSError as error:
            message = f"{URL_INCEPTION_V3} cannot be downloaded ({error})"
            raise OSError(f"{message}; `weights` (`--inception_weights`) takes a file of it.") from error
        except RuntimeError as error:
            raise ValueError(f"`weights` must fit Inception v3, '{weights}' does not: {str(error)[:300]}") from error
        self.requires_grad_(False).eval()
        self.digest = weights_digest(self)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features `(B, 2048)` of uint8 pictures `(B, 3, height, width)`."""
        return self.net(pictures)[0]

    def features_and_logits(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `(B, 2048)`, and the logits `(B, 1008)` that the Inception score is made of."""
        return self.net(pictures)


class EfficientNetFeatures(FeatureExtractor):
    """The 1,280 features of [`EfficientNetLite0`], whose weights a package of the registry has."""

    name = "efficientnet_lite0"

    def __init__(self):
        super().__init__()
        self.net = EfficientNetLite0()
        self.digest = weights_digest(self)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features `(B, 1280)` of uint8 pictures `(B, 3, height, width)`."""
        return self.net.features(pictures.float() / 127.5 - 1)


class TorchScriptFeatures(FeatureExtractor):
    """Features of a TorchScript file whose net takes uint8 pictures `(B, 3, height, width)`.

    Args:
        path (`str` or `Path`): the file; distances are named after it.

    Raises:
        `ValueError`: no TorchScript.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        try:
            self.net = torch.jit.load(str(path), map_location="cpu")
        except RuntimeError as error:
            raise ValueError(f"`name` must be a TorchScript file where it is a file, got '{path}': {error}") from error
        self.name = own_name(Path(path).stem)
        self.digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        self.requires_grad_(False).eval()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features `(B, F)` of uint8 pictures `(B, 3, height, width)`."""
        return self.net(pictures).float().flatten(1)


class VisionModelFeatures(FeatureExtractor):
    """Pooled features of a vision model of transformers: image embeddings of CLIP, or what its head would be given.

    Classifiers such as ViT are often stored without the pooler that they do not need: then it is the class token.

    Args:
        name (`str` or `Path`): Hub id or folder of the model and its image processor; distances are named after it.

    Raises:
        `OSError`, `ValueError`: nothing there, no vision model, or one whose files lack weights.
    """

    def __init__(self, name: str | Path):
        super().__init__()
        self.image_processor = AutoImageProcessor.from_pretrained(name)
        self.net = load_whole(AutoModel, name, optional="pooler")
        self.name = own_name(str(name).rstrip("/").split("/")[-1])
        self.requires_grad_(False).eval()
        self.digest = weights_digest(self.net)
        self.image_processor_digest = processor_digest(self.image_processor)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features `(B, F)` of uint8 pictures `(B, 3, height, width)`."""
        pixel_values = processed(self.image_processor, pictures)
        pixel_values = pixel_values[:, : getattr(self.net.config, "num_channels", 3)]
        pixel_values = pixel_values.to(self.net.device, self.net.dtype)
        if hasattr(self.net, "get_image_features"):
            outputs = self.net.get_image_features(pixel_values)
        else:
            outputs = self.net(pixel_values)
        if not isinstance(outputs, torch.Tensor):
            pooled = outputs.get("pooler_output")
            if pooled is None:
                states = outputs.last_hidden_state
                pooled = states[:, 0] if hasattr(self.net, "pooler") else states.mean(1)
            outputs = pooled
        return outputs.float().flatten(1)


def slug(text: str) -> str:
    """Letters, digits and single underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def own_name(text: str) -> str:
    """What distances are named after a file or folder of this name: never as one of the built-in nets."""
    name = slug(text)
    return f"{name}_file" if name in FEATURE_EXTRACTORS else name


def feature_extractor(name: str | Path, weights: str | Path | None = None) -> FeatureExtractor:
    """The net that turns uint8 pictures `(B, 3, height, width)` into features `(B, F)`.

    Args:
        name (`str` or `Path`):
            `"inception"`, `"efficientnet_lite0"`, a TorchScript file, or Hub id or folder of a vision model.
        weights (`str` or `Path`, *optional*): file of Inception's weights, see [`InceptionFeatures`].

    Raises:
        `ValueError`: an unknown name, or weights for another net than Inception; further as there.
    """
    if name == "inception":
        return InceptionFeatures(weights)
    if weights is not None:
        raise ValueError(f"`weights` must be None for {str(name)!r}, which has its own, got '{weights}'.")
    if name == "efficientnet_lite0":
        return EfficientNetFeatures()
    if Path(name).is_file():
        return TorchScriptFeatures(name)
    try:
        return VisionModelFeatures(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`name` must be one of {FEATURE_EXTRACTORS}, a TorchScript file, or a vision model of transformers by "
            f"its Hub id or folder, got {str(name)!r}: {str(error)[:300]}"
        ) from error


def feature_extractors(names: Iterable[str], inception_weights: str | Path | None = None) -> list[FeatureExtractor]:
    """Several nets, each once; `"none"` is none.

    Args:
        names (`Iterable[str]`): as in [`feature_extractor`].
        inception_weights (`str` or `Path`, *optional*): file of Inception's weights; `None` downloads them.

    Raises:
        `ValueError`: two nets of one name, by which their figures could not be told apart; further as there.
    """
    nets: dict[str, FeatureExtractor] = {}
    for name in dict.fromkeys(names):
        if name == "none":
            continue
        net = feature_extractor(name, inception_weights if name == "inception" else None)
        if net.name in nets:
            raise ValueError(f"`names` must be of nets with different names, got two called {net.name!r}.")
        nets[net.name] = net
    return list(nets.values())


def distance_name(extractor: str, inception: str = "fid") -> str:
    """The name of a Frechet distance: only Inception's is FID.

    Args:
        extractor (`str`): name of the net.
        inception (`str`, defaults to `"fid"`): the name for Inception's; `"rfid"` of reconstructions.
    """
    return inception if extractor == "inception" else f"frechet_distance_{extractor}"
