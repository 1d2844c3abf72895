# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures from captions, class labels or nothing: RQ-Transformer, RQ-VAE and caption tokenizer in one pipeline."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.utils import logging
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .pipeline_hub import HubPipelineMixin

logger = logging.get_logger(__name__)

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class RQImageGenerationPipeline(HubPipelineMixin, DiffusionPipeline):
    r"""
    Generates pictures with an RQ-Transformer and decodes them with its RQ-VAE.

    Args:
        rqvae ([`RQVAEModel`]): decodes codes to pictures.
        transformer ([`RQTransformerForImageGeneration`]): draws codes; its codebook must be the RQ-VAE's.
        tokenizer (`PreTrainedTokenizerFast`, *optional*): for models conditioned on captions.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf import RQImageGenerationPipeline
    >>> pipe = RQImageGenerationPipeline.from_pretrained("checkpoints/emoji-64")
    >>> image = pipe("a red heart, twemoji style", generator=torch.Generator().manual_seed(0)).images[0]
    >>> image.size
    (64, 64)
    ```
    """

    model_cpu_offload_seq = "transformer->rqvae"
    _optional_components = ["tokenizer"]
    _callback_tensor_inputs = ["codes"]

    def __init__(
        self,
        rqvae: PreTrainedModel,
        transformer: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        super().__init__()
        if rqvae is not None and transformer is not None:
            check_pair(rqvae, transformer)
        if tokenizer is not None and transformer is not None:
            config = transformer.config
            if len(tokenizer) > config.vocab_size or tokenizer.model_max_length != config.condition_length:
                raise ValueError(
                    f"`tokenizer` must have at most {config.vocab_size} ids and `model_max_length` "
                    f"{config.condition_length}, as the transformer, got {len(tokenizer)} and "
                    f"{tokenizer.model_max_length}."
                )
        self.register_modules(rqvae=rqvae, transformer=transformer, tokenizer=tokenizer)
        self.image_processor = VaeImageProcessor(do_resize=False, do_convert_rgb=True)
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop after the current position."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        class_labels: int | str | list[int | str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        temperature: float | list[float] | None = None,
        top_k: int | list[int] | None = None,
        top_p: float | list[float] | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffusionPipeline, int, int, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...] = ("codes",),
    ) -> ImagePipelineOutput | tuple:
        r"""Generates pictures.

        Sampling settings that are `None` are the checkpoint's own (`transformer.generation_config`).

        Args:
            prompt (`str` or `list[str]`, *optional*):
                Captions, for a model trained on captions. What is past its `condition_length` tokens is cut with a
                warning.
            class_labels (`int`, `str` or a list of them, *optional*):
                Class ids or names, for a class-conditional model.
            negative_prompt (`str` or `list[str]`, *optional*):
                What guidance leads away from; one, or one per prompt. Needs `guidance_scale`.
            num_images_per_prompt (`int`, defaults to 1):
                Pictures per prompt or label; those of one prompt follow each other.
            temperature, top_k, top_p, guidance_scale:
                See [`RQTransformerForImageGeneration.generate`].
            generator (`torch.Generator` or a list of one per picture, *optional*):
                Makes the pictures reproducible. With one per picture a batch equals its singles.
            output_type (`str`, defaults to `"pil"`):
                `"pil"`, `"np"` `(B, height, width, 3)` or `"pt"` `(B, 3, height, width)` in [0, 1], or `"latent"`: the
                codes `(B, H, W, D)`.
            return_dict (`bool`, defaults to `True`):
                `ImagePipelineOutput` or a tuple.
            callback_on_step_end (*optional*):
                `callback(pipe, step, position, {"codes": codes})` after each of the H*W positions, with codes
                `(B, H, W, D)` that are 0 where nothing was drawn yet. A dictionary with other `codes` that it returns
                is what the loop goes on with; `pipe._interrupt = True` ends it.
            callback_on_step_end_tensor_inputs (`list[str]`, defaults to `("codes",)`):
                What the callback is given.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple of them.

        Raises:
            `ValueError`: bad input, each named.
        """
        self._check_inputs(
            prompt, class_labels, num_images_per_prompt, output_type, callback_on_step_end_tensor_inputs
        )
        input_ids = self._condition(prompt, class_labels).repeat_interleave(num_images_per_prompt, dim=0)
        input_ids = input_ids.to(self._execution_device)
        negative_input_ids = None
        if negative_prompt is not None:
            negative_input_ids = self.encode_prompt(negative_prompt)
            if len(negative_input_ids) > 1:
                negative_input_ids = negative_input_ids.repeat_interleave(num_images_per_prompt, dim=0)
            if len(negative_input_ids) not in (1, len(input_ids)):
                count = len(input_ids) // num_images_per_prompt
                raise ValueError(f"`negative_prompt` must be one or {count}, got {len(negative_prompt)}.")
        self._interrupt = False
        height, width, _ = self.transformer.config.code_shape

        with self.progress_bar(total=height * width) as progress_bar:

            def on_position(position: int, codes: torch.LongTensor) -> torch.LongTensor | bool | None:
                progress_bar.update()
                replaced = None
                if callback_on_step_end is not None:
                    tensors = {name: {"codes": codes}[name] for name in callback_on_step_end_tensor_inputs}
                    replaced = (callback_on_step_end(self, position, position, tensors) or {}).get("codes")
                if self.interrupt:
                    if replaced is not None:
                        self.transformer._check_codes("the callback's codes", replaced, (len(codes),))
                        codes.copy_(replaced)
                    return False
                return replaced

            codes = self.transformer.generate(
                input_ids,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                guidance_scale=guidance_scale,
                negative_input_ids=negative_input_ids,
                generator=generator,
                callback=on_position,
            )
        images = codes if output_type == "latent" else self._postprocess(self.rqvae.decode(codes), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def reconstruct(
        self,
        image: PipelineImageInput,
        depth: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        r"""Encodes pictures and decodes them from their first codes, coarse to fine (Eq. 5).

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                Pictures of one size, a multiple of the RQ-VAE's `downsample_factor` each way; arrays
                `(B, height, width, 3)` and tensors `(B, 3, height, width)` in [0, 1].
            depth (`int`, *optional*):
                Number of depths to decode, from 1 to D; all by default.
            output_type (`str`, defaults to `"pil"`): as in `__call__`; `"latent"` gives the codes of those depths.
            return_dict (`bool`, defaults to `True`): `ImagePipelineOutput` or a tuple.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple of them.

        Raises:
            `ValueError`: bad input, each named.
        """
        code_depth = self.rqvae.config.code_depth
        depth = code_depth if depth is None else depth
        if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= code_depth:
            raise ValueError(f"`depth` must be an integer from 1 to {code_depth}, got {depth!r}.")
        self._check_output_type(output_type)
        codes = self.rqvae.encode(self._pixel_values(image))[..., :depth]
        images = codes if output_type == "latent" else self._postprocess(self.rqvae.decode(codes), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def encode_prompt(self, prompt: str | list[str]) -> torch.LongTensor:
        """Ids of captions, `(B, condition_length)`; what does not fit is cut with a warning that shows it.

        Raises:
            `ValueError`: no captions, text of unknown characters only, or a model without captions.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(prompts, (list, tuple)) or not all(isinstance(text, str) for text in prompts):
            raise ValueError(f"`prompt` must be a string or a list of strings, got {prompt!r}.")
        if not prompts:
            raise ValueError("`prompt` must hold at least one caption, got an empty list.")
        if self.tokenizer is None:
            raise ValueError("`prompt` needs a pipeline with a `tokenizer`; this one has none.")
        length = self.tokenizer.model_max_length
        for text in prompts:
            ids = self.tokenizer(
                text, padding=False, truncation=False, add_special_tokens=False, verbose=False
            ).input_ids
            if ids and all(index == self.tokenizer.unk_token_id for index in ids):
                raise ValueError(f"`prompt` must hold text that the tokenizer knows, got {text!r}.")
            if len(ids) > length:
                cut = self.tokenizer.decode(ids[length:])
                logger.warning(f"The prompt was cut to {length} tokens; this part is not used: {cut!r}")
        return self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids

    def get_label_ids(self, labels: int | str | list[int | str]) -> list[int]:
        """Class ids of names (whole, or one of the alternatives between commas; case does not matter) or of ids.

        Raises:
            `ValueError`: a name or id that the model does not have.
        """
        config = self.transformer.config
        labels = labels if isinstance(labels, (list, tuple)) else [labels]
        if not labels:
            raise ValueError("`class_labels` must hold at least one label, got an empty list.")
        id2label = config.id2label or {}
        names = {}
        for index, label in id2label.items():
            for name in {part.strip().lower() for part in label.split(",")}:
                names.setdefault(name, []).append(index)
        for label in id2label.values():  # whole labels go before alternatives
            whole = label.strip().lower()
            names[whole] = [other for other, text in id2label.items() if text.strip().lower() == whole]
        classes = len(config.id2label) if config.id2label is not None else config.vocab_size
        ids = []
        for label in labels:
            if isinstance(label, str):
                if label.strip().lower() not in names:
                    close = difflib.get_close_matches(label.lower(), list(names), n=3, cutoff=0.0)
                    raise ValueError(f"`class_labels` must be labels of this model, such as {close}, got {label!r}.")
                indexes = names[label.strip().lower()]
                if len(indexes) > 1:
                    raise ValueError(f"`class_labels` must be one class each, got {label!r}, a name of {indexes}.")
                label = indexes[0]
            if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < classes:
                raise ValueError(f"`class_labels` must be ids in [0, {classes}) or names, got {label!r}.")
            ids.append(label)
        return ids

    def _condition(self, prompt, class_labels) -> torch.LongTensor:
        """Condition ids `(B, S)` of a prompt, of class labels, or of nothing."""
        if prompt is not None:
            return self.encode_prompt(prompt)
        if class_labels is not None:
            return torch.tensor(self.get_label_ids(class_labels))[:, None]
        return torch.zeros(1, 1, dtype=torch.long)

    def _check_inputs(self, prompt, class_labels, num_images_per_prompt, output_type, tensor_inputs) -> None:
        if self.transformer is None or (self.rqvae is None and output_type != "latent"):
            raise ValueError("`transformer` and, except for output_type='latent', `rqvae` must be loaded, got None.")
        config = self.transformer.config
        if prompt is not None and class_labels is not None:
            raise ValueError("`prompt` and `class_labels` exclude each other, got both.")
        if config.condition_length > 1 and prompt is None:
            raise ValueError("`prompt` must be given: this model draws pictures of captions.")
        if config.condition_length == 1:
            if prompt is not None:
                raise ValueError(f"`prompt` must be None: this model knows no captions, got {prompt!r}.")
            if config.vocab_size > 1 and class_labels is None:
                raise ValueError(f"`class_labels` must be given: this model has {config.vocab_size} classes.")
            if config.vocab_size == 1 and class_labels is not None:
                raise ValueError(f"`class_labels` must be None: this model is unconditional, got {class_labels!r}.")
        if isinstance(num_images_per_prompt, bool) or not isinstance(num_images_per_prompt, int):
            raise ValueError(f"`num_images_per_prompt` must be an integer, got {num_images_per_prompt!r}.")
        if num_images_per_prompt < 1:
            raise ValueError(f"`num_images_per_prompt` must be at least 1, got {num_images_per_prompt}.")
        self._check_output_type(output_type)
        unknown = [name for name in tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be in {self._callback_tensor_inputs}, got {unknown}."
            )

    @staticmethod
    def _check_output_type(output_type: str) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, got {output_type!r}.")

    def _pixel_values(self, image: PipelineImageInput) -> torch.Tensor:
        """Pixels `(B, channels, height, width)` in [-1, 1] of pictures of any kind that diffusers takes."""
        images = image if isinstance(image, (list, tuple)) else [image]
        sizes = {each.size for each in images if isinstance(each, PIL.Image.Image)}
        if not images or len(sizes) > 1:
            raise ValueError(f"`image` must be one or more pictures of one size, got sizes {sorted(sizes)}.")
        for each in images:
            if isinstance(each, (np.ndarray, torch.Tensor)):
                values = torch.as_tensor(each)
                if not values.is_floating_point() or not (values.min() >= 0 and values.max() <= 1):
                    got = f"{values.dtype} from {values.min():.4g} to {values.max():.4g}"
                    raise ValueError(
                        f"`image` must hold floats in [0, 1] where it is an array or a tensor, got {got}."
                    )
        pixel_values = self.image_processor.preprocess(image)
        return pixel_values.to(self._execution_device, self.rqvae.dtype)

    def _postprocess(self, pixel_values: torch.Tensor, output_type: str):
        return self.image_processor.postprocess(pixel_values.float(), output_type=output_type)


def check_pair(rqvae: PreTrainedModel, transformer: PreTrainedModel) -> None:
    """Refuses a transformer that was trained on another RQ-VAE.

    Raises:
        `ValueError`: code shapes, codebook sizes or codebooks differ.
    """
    for name in ("code_shape", "codebook_size", "codebook_dim", "shared_codebook"):
        ours, theirs = getattr(rqvae.config, name), getattr(transformer.config, name)
        if ours != theirs:
            raise ValueError(
                f"`transformer` and `rqvae` must have one `{name}`, got {theirs} and {ours}: they do not belong "
                "together."
            )
    first, second = rqvae.codebook, transformer.codebook.weight
    if first.is_meta or second.is_meta:
        logger.debug("Codebooks on the meta device are not compared.")
        return
    # The transformer's may have been rounded to bfloat16, its 8 bits, when it was saved or loaded.
    if not torch.allclose(first.to(second.device).float(), second.float(), rtol=2**-7, atol=1e-6):
        raise ValueError("`transformer` and `rqvae` must have one codebook: they do not belong together.")


def component_subfolder(name_or_path: str | Path, component: str) -> str:
    """Where to find a component of a pipeline, for `from_pretrained(name_or_path, subfolder=...)`.

    Args:
        name_or_path: Hub id or folder, of a pipeline or of the component alone.
        component: "rqvae", "transformer" or "tokenizer".

    Returns:
        `component` if `name_or_path` is a pipeline, else "".

    Raises:
        `ValueError`: neither a folder nor a Hub id that can be reached.
    """
    if Path(name_or_path).is_dir():
        is_pipeline = (Path(name_or_path) / "model_index.json").is_file()
    else:
        try:
            is_pipeline = huggingface_hub.file_exists(str(name_or_path), "model_index.json")
        except Exception as error:  # the Hub's client raises errors of the HTTP library it was built with
            raise ValueError(f"The model must be a folder or a Hub id, got {str(name_or_path)!r}: {error}") from error
    return component if is_pipeline else ""


def load_component(
    component_class: type[PreTrainedModel], name_or_path: str | Path, component: str, **kwargs
) -> PreTrainedModel:
    """A whole model, from a repository or folder of its own or from a pipeline's.

    Args:
        component_class: [`RQVAEModel`] or [`RQTransformerForImageGeneration`].
        name_or_path: Hub id or folder.
        component: "rqvae" or "transformer".
        kwargs: of `from_pretrained`.

    Raises:
        `ValueError`: nothing there, or weights are missing, which `from_pretrained` alone would draw at random.
    """
    model, loaded = component_class.from_pretrained(
        name_or_path,
        subfolder=component_subfolder(name_or_path, component),
        use_safetensors=True,
        output_loading_info=True,
        **kwargs,
    )
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])[0]
        raise ValueError(
            f"{str(name_or_path)!r} must hold an {component_class.__name__}, but lacks weights such as `{missing}`."
        )
    return model
