# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Codes of an RQ-VAE as tokens of a language model.

Symbols: H x W positions, D code depth, K codebook size, n_z codebook width, N = H*W*D codes of a picture. A picture is
`<image>`, its codes in raster order and coarse to fine at each position, and `</image>`: N + 2 ids.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from transformers import AddedToken, AutoTokenizer, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from .models import RQVAEImageProcessorPil, RQVAEModel
from .models.validation import check_integer, check_integers

BEGIN, END, SETTINGS = "<image>", "</image>", "image_tokens.json"
# Kinds of ids: codes have the number of their codebook, `</image>` the number of codebooks, and others one of these.
TEXT, UNKNOWN = -1, -2


class ImageTokens:
    r"""
    Adds the codes of an RQ-VAE to a tokenizer, so that a causal language model reads and draws pictures.

    The tokenizer gets `<image>`, `</image>` and a token per code: K of them with a shared codebook, D x K with one
    codebook per depth. All are special tokens, so `tokenizer.decode(ids, skip_special_tokens=True)` is the text alone.

    Args:
        rqvae ([`RQVAEModel`]): Encodes and decodes the pictures.
        tokenizer ([`PreTrainedTokenizerBase`]): The tokens are added to it.
        depth (`int`, *optional*): Depths that are used, D by default. Fewer make shorter, coarser pictures.

    Attributes:
        ids (`list[int]`): Ids of the added tokens; `begin_id` of `<image>` and `end_id` of `</image>` are the first.
        code_shape (`tuple[int, int, int]`): (H, W, depth) of a picture, which has `num_codes` codes.

    Raises:
        `ValueError`: the tokenizer already has one of the tokens, or a depth that the RQ-VAE does not have.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf import ImageTokens, RQVAEModel, train_caption_tokenizer
    >>> rqvae = RQVAEModel.from_pretrained("checkpoints/emoji-64/rqvae")
    >>> image_tokens = ImageTokens(rqvae, train_caption_tokenizer(["a red heart", "a blue star"], vocab_size=60))
    >>> codes = torch.randint(2048, (1, 8, 8, 3))
    >>> ids = image_tokens.encode(codes)
    >>> ids.shape, torch.equal(image_tokens.decode(ids[0], output_type="latent"), codes)
    (torch.Size([1, 194]), True)
    ```
    """

    def __init__(self, rqvae: RQVAEModel, tokenizer: PreTrainedTokenizerBase, depth: int | None = None):
        depth = rqvae.config.code_depth if depth is None else depth
        check_integer("depth", depth, 1, rqvae.config.code_depth)
        tokens = _tokens(rqvae, depth)
        taken = sorted(tokenizer.get_vocab().keys() & set(tokens))
        if taken:
            raise ValueError(f"`tokenizer` must have no image tokens (`from_pretrained` loads them), got {taken[0]}.")
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
        self._set(rqvae, tokenizer, depth)

    def _set(self, rqvae: RQVAEModel, tokenizer: PreTrainedTokenizerBase, depth: int) -> None:
        self.rqvae, self.tokenizer = rqvae, tokenizer
        self.code_shape = (*rqvae.config.code_shape[:2], depth)
        self.num_codes = math.prod(self.code_shape)
        self.ids = tokenizer.convert_tokens_to_ids(_tokens(rqvae, depth))  # consecutive: one call added them
        self.begin_id, self.end_id, self._first_code = self.ids[:3]
        self._num_codebooks, self._codebook_size, _ = _codebook(rqvae, depth).shape

    def encode(self, images: Image.Image | list[Image.Image] | torch.Tensor) -> torch.LongTensor:
        """Ids `(B, N + 2)` of pictures, on the CPU: each has `<image>` and `</image>` around its codes.

        Args:
            images (`PIL.Image.Image`, `list` of them, or `torch.Tensor`): Pictures of any size; or float pixels
                `(B, num_channels, height, width)` in [-1, 1]; or codes `(B, H, W, depth)` in [0, K).
        """
        if not isinstance(images, torch.Tensor):
            processor = RQVAEImageProcessorPil.from_rqvae_config(self.rqvae.config)
            images = processor(images, return_tensors="pt").pixel_values
        if images.is_floating_point():
            images = self.rqvae.encode(images.to(self.rqvae.device))[..., : self.code_shape[-1]]
        check_integers("The codes of `images`", images, self._codebook_size, [(-1, *self.code_shape)])
        codebooks = torch.arange(self.code_shape[-1]) % self._num_codebooks  # (depth,)
        ids = self._first_code + self._codebook_size * codebooks + images.long().cpu()  # (B, H, W, depth)
        return F.pad(F.pad(ids.flatten(1), (1, 0), value=self.begin_id), (0, 1), value=self.end_id)

    def decode(self, ids: list[int] | torch.LongTensor, output_type: str = "pil") -> list | np.ndarray | torch.Tensor:
        """All pictures in one row of ids, with any text before, between and after them.

        Args:
            ids (`list[int]` or `torch.LongTensor` of shape `(L,)`): Ids, such as a row of `model.generate`.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"`, or `"latent"` for codes.

        Returns:
            n pictures as in diffusers, arrays and tensors in [0, 1], or codes `(n, H, W, depth)`.

        Raises:
            `ValueError`: no picture, or the first place with an unknown id, a code outside a picture or of another
                codebook, or a picture that is cut, too long or nested.
        """
        ids = torch.as_tensor(ids, dtype=torch.long).cpu()
        if ids.ndim != 1:
            raise ValueError(f"`ids` must be one row of ids, got shape {tuple(ids.shape)}.")
        kinds = self.token_kinds()  # (V,)
        wanted = self.wanted_kinds(ids[None])[0]  # (L + 1,)
        is_known = (0 <= ids) & (ids < len(kinds))
        found = kinds[ids.where(is_known, 0)].where(is_known, UNKNOWN)  # (L,)
        wrong = (F.pad(found, (0, 1), value=TEXT) != wanted).nonzero()
        if len(wrong):
            place = int(wrong[0])
            name = {TEXT: f"text or {BEGIN}", self._num_codebooks: END}.get(int(wanted[place]))
            if name is None:
                drawn = place - 1 - int((ids[:place] == self.begin_id).nonzero()[-1])
                name = f"code {drawn} of {self.num_codes} from codebook {wanted[place]}"
            got = "the end" if place == len(ids) else f"id {ids[place]}"
            raise ValueError(f"`ids` must have {name} at place {place}, got {got}.")
        codes = ids[(0 <= found) & (found < self._num_codebooks)] - self._first_code
        if not len(codes):
            raise ValueError("`ids` must have a picture, got none.")
        codes = (codes % self._codebook_size).view(-1, *self.code_shape)
        if output_type == "latent":
            return codes
        pixels = self.rqvae.decode(codes.to(self.rqvae.device))  # (n, num_channels, height, width)
        return VaeImageProcessor().postprocess(pixels.float(), output_type=output_type)

    @torch.no_grad()
    def extend(self, model: PreTrainedModel, pad_to_multiple_of: int | None = None) -> None:
        """Gives a language model a row of its embeddings, and of its head, for each of the tokens, in place.

        A row starts as the mean row of the text plus the vector of its code. A fixed random orthogonal matrix maps the
        vector to the model's width; its norm is half the mean norm of the text's rows, which stay as they are.
        `pad_to_multiple_of` is that of [`PreTrainedModel.resize_token_embeddings`].

        A model that has been extended before is a `ValueError`.
        """
        if getattr(model.config, "image_tokens", False):
            raise ValueError("`model` must not have image tokens yet, got one that was extended before.")
        if model.get_output_embeddings() is None:
            raise ValueError(f"`model` must have a language model head, got {type(model).__name__} without one.")
        num_rows = max(model.get_input_embeddings().weight.shape[0], self.ids[-1] + 1)  # some models have spare rows
        model.resize_token_embeddings(num_rows, pad_to_multiple_of=pad_to_multiple_of, mean_resizing=False)
        generator = torch.Generator().manual_seed(0)
        vectors = _codebook(self.rqvae, self.code_shape[-1]).flatten(0, 1)  # (K or depth * K, n_z)
        ends = torch.randn(2, vectors.shape[1], generator=generator)  # vectors of `<image>` and `</image>`
        matrix = torch.empty(vectors.shape[1], model.get_input_embeddings().weight.shape[1])  # (n_z, hidden size)
        directions = F.normalize(torch.cat([ends, vectors]) @ torch.nn.init.orthogonal_(matrix, generator=generator))
        for layer in {model.get_input_embeddings(), model.get_output_embeddings()}:
            text = layer.weight[: self.begin_id].float()
            rows = text.mean(0) + text.norm(dim=1).mean() / 2 * directions.to(text.device)
            layer.weight[self.begin_id : self.ids[-1] + 1] = rows.to(layer.weight.dtype)
        model.config.image_tokens = True

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Saves the tokenizer, the RQ-VAE in `rqvae/` and the depth. Save the model into the same folder."""
        self.tokenizer.save_pretrained(save_directory)
        self.rqvae.save_pretrained(Path(save_directory) / "rqvae")
        settings = {"depth": self.code_shape[-1], "sha256": _digest(self.rqvae, self.code_shape[-1])}
        (Path(save_directory) / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, rqvae: RQVAEModel | None = None, **kwargs) -> "ImageTokens":
        """Loads what [`~ImageTokens.save_pretrained`] saved, from a folder or the Hub (`kwargs`: `revision`, ...).

        An `rqvae` in place of the saved one must have its codebook and code shape, else it is a `ValueError`.
        """
        settings = json.loads(Path(cached_file(name_or_path, SETTINGS, **kwargs)).read_text(encoding="utf-8"))
        rqvae = rqvae or RQVAEModel.from_pretrained(name_or_path, subfolder="rqvae", **kwargs)
        if _digest(rqvae, settings["depth"]) != settings["sha256"]:
            raise ValueError("`rqvae` must have the codebook and code shape of the saved image tokens, got others.")
        image_tokens = cls.__new__(cls)
        image_tokens._set(rqvae, AutoTokenizer.from_pretrained(name_or_path, **kwargs), settings["depth"])
        return image_tokens

    def token_kinds(self) -> torch.LongTensor:
        """Kind of each id `(V,)`."""
        kinds = torch.full((max(len(self.tokenizer), self.ids[-1] + 1),), TEXT)
        kinds[self.end_id] = self._num_codebooks
        kinds[self.ids[2:]] = torch.arange(self._num_codebooks).repeat_interleave(self._codebook_size)
        return kinds

    def wanted_kinds(self, ids: torch.LongTensor) -> torch.LongTensor:
        """The kinds of ids that must stand at each place of rows `(B, L)`, and after their end: `(B, L + 1)`."""
        places = torch.arange(ids.shape[1] + 1, device=ids.device)
        last_begin, last_end = (
            F.pad(torch.where(ids == end, places[:-1], -1), (1, 0), value=-1).cummax(1).values  # before each place
            for end in (self.begin_id, self.end_id)
        )
        drawn = places - 1 - last_begin  # codes so far, if a picture is open
        wanted = torch.where(drawn < self.num_codes, drawn % self._num_codebooks, self._num_codebooks)
        return torch.where(last_begin > last_end, wanted, TEXT)


class ImageTokensLogitsProcessor(LogitsProcessor):
    r"""
    Keeps `model.generate` to ids that [`ImageTokens.decode`] takes: whole pictures, and no codes outside of them.

    To ask for a picture, end the prompt with `<image>`.

    Args:
        image_tokens ([`ImageTokens`]): The tokens.
        allow_start (`bool`, *optional*, defaults to `True`): Whether the model may start pictures by itself.
    """

    def __init__(self, image_tokens: ImageTokens, allow_start: bool = True):
        self.image_tokens, self.kinds = image_tokens, image_tokens.token_kinds()
        if not allow_start:
            self.kinds[image_tokens.begin_id] = UNKNOWN

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores `(B, V)` after ids `(B, L)`, with `-inf` for the tokens that may not follow."""
        self.kinds = self.kinds.to(scores.device)  # copied once
        kinds = F.pad(self.kinds, (0, scores.shape[-1] - len(self.kinds)), value=UNKNOWN)  # (V,), with spare rows
        wanted = self.image_tokens.wanted_kinds(input_ids)[:, -1:]  # (B, 1)
        return scores.masked_fill(kinds != wanted, -torch.inf)


def _tokens(rqvae: RQVAEModel, depth: int) -> list[str]:
    levels = [""] if rqvae.config.shared_codebook else [f"{level}_" for level in range(depth)]
    return [BEGIN, END, *(f"<code_{level}{code}>" for level in levels for code in range(rqvae.config.codebook_size))]


def _codebook(rqvae: RQVAEModel, depth: int) -> torch.Tensor:
    """Code vectors in float32 on the CPU: `(1, K, n_z)`, or `(depth, K, n_z)` with one codebook per depth."""
    return rqvae.codebook[:depth].detach().float().cpu().contiguous()


def _digest(rqvae: RQVAEModel, depth: int) -> str:
    """SHA-256 of the code shape and the codebook."""
    shape, codebook = str(rqvae.config.code_shape), _codebook(rqvae, depth)
    return hashlib.sha256(shape.encode() + codebook.numpy().tobytes()).hexdigest()
