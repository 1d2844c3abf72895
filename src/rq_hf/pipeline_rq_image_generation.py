# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures from captions, class labels or nothing: RQ-Transformer, RQ-VAE and caption tokenizer in one pipeline."""

import itertools
import threading
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import logging
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from .class_names import ids_of_labels
from .editing import EditingMixin
from .hub_cache import download_options, load_whole
from .likelihood_ranking import Score, is_likelihood, likelihood_scorer, with_likelihood
from .pipeline_hub import HubPipelineMixin
from .selection import CLIPRanker, ImageClassifier, RQImagePipelineOutput, candidates_per_prompt, select_codes

logger = logging.get_logger(__name__)

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# How a tokenizer pads and cuts is a state of its own that each call sets.
_tokenizer_lock = threading.Lock()


class RQImageGenerationPipeline(EditingMixin, HubPipelineMixin, DiffusionPipeline):
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
        grey = rqvae is not None and rqvae.config.num_channels == 1
        self.image_processor = VaeImageProcessor(  # no tensor is taken for latents, which pass as they are
            do_resize=False, vae_latent_channels=0, do_convert_rgb=not grey, do_convert_grayscale=grey
        )
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
        num_candidates: int | None = None,
        ranker: str | Path | PreTrainedModel | CLIPRanker | None = None,
        likelihood_weight: float | None = None,
        classifier: str | Path | PreTrainedModel | ImageClassifier | None = None,
        acceptance_rate: float | None = None,
        candidate_batch_size: int = 16,
        known_codes: torch.LongTensor | None = None,
        known_mask: torch.BoolTensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffusionPipeline, int, int, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...] = ("codes",),
    ) -> RQImagePipelineOutput | tuple:
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
                See [`RQTransformerForImageGeneration.generate`]. Guidance is off unless a checkpoint's own settings
                or `guidance_scale` turn it on, and needs a `negative_prompt` or training with condition dropout.
            num_candidates, ranker (`int` and [`CLIPRanker`] or what it takes, or `"likelihood"`, *optional*):
                Re-ranking: of so many pictures drawn per prompt the `num_images_per_prompt` most like it are returned,
                or those likeliest to the model itself, see [`RQTransformerForImageGeneration.log_likelihood`].
            likelihood_weight (`float`, *optional*): how many times this is added, in nats, to the cosines of a ranker.
            classifier, acceptance_rate ([`ImageClassifier`] or what it takes, and `float`, *optional*):
                Rejection sampling: `num_images_per_prompt / acceptance_rate` pictures are drawn per label, rounded up,
                and those returned in which the classifier is surest of it. The rate is in (0, 1].
            candidate_batch_size (`int`, defaults to 16):
                Candidates drawn at once in either case; no picture of an earlier batch is kept.
            known_codes, known_mask (*optional*):
                Codes `(1 or prompts, H, W, D)` to keep, and where, see [`RQTransformerForImageGeneration.generate`];
                [`complete`] and [`vary`] get them from pictures.
            generator (`torch.Generator` or a list of one per picture, *optional*):
                Makes the pictures reproducible. With one per picture a batch equals its singles. Candidates of a
                prompt draw from the generators of its pictures in turn.
            output_type (`str`, defaults to `"pil"`):
                `"pil"`, `"np"` `(B, height, width, 3)` or `"pt"` `(B, 3, height, width)` in [0, 1], or `"latent"`: the
                codes `(B, H, W, D)`.
            return_dict (`bool`, defaults to `True`):
                [`RQImagePipelineOutput`] or a tuple.
            callback_on_step_end (*optional*):
                `callback(pipe, step, position, {"codes": codes})` after each of the H*W positions, of each batch of
                candidates, with codes `(B, H, W, D)` that are 0 where nothing is known or was drawn yet. It may return
                a dictionary with other `codes`: what follows is drawn after those of this position; changes of
                earlier positions are in the result, though nothing follows them, and those of later ones are drawn
                over. `pipe._interrupt = True` ends it: of candidates the best that are whole are returned, if need be
                fewer, and unfinished ones where a prompt has no other.
            callback_on_step_end_tensor_inputs (`list[str]`, defaults to `("codes",)`):
                What the callback is given.

        Returns:
            [`RQImagePipelineOutput`] with `images` and, of candidates, their `scores`, or a tuple of these.

        Raises:
            `ValueError`: bad input, each named.
        """
        self._check_inputs(
            prompt,
            class_labels,
            (ranker is not None and not is_likelihood(ranker)) or classifier is not None,
            {"num_images_per_prompt": num_images_per_prompt, "candidate_batch_size": candidate_batch_size},
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        num_images_per_prompt, candidate_batch_size = int(num_images_per_prompt), int(candidate_batch_size)
        candidates = candidates_per_prompt(
            num_images_per_prompt, num_candidates, ranker, classifier, acceptance_rate, likelihood_weight
        )
        input_ids = self._condition(prompt, class_labels)
        if known_codes is not None:
            self.transformer.check_codes("`known_codes`", known_codes)
        if known_codes is not None and len(input_ids) == 1:  # one prompt for several given pictures
            input_ids = input_ids.expand(len(known_codes), -1)
        count = len(input_ids)
        score = candidates and self._scorer(
            prompt, class_labels, input_ids, known_mask, ranker, classifier, likelihood_weight
        )
        negative_input_ids = None
        if negative_prompt is not None:
            negative_input_ids = self.encode_prompt(negative_prompt, "negative_prompt")
        given = {"negative_prompt": negative_input_ids, "known_codes": known_codes}
        if getattr(known_mask, "ndim", None) == 4:
            given["known_mask"] = known_mask
        for name, values in given.items():
            if values is not None and len(values) not in (1, count):
                names = {"known_codes": "`image`, or `known_codes`,"}.get(name, f"`{name}`")
                raise ValueError(f"{names} must be one or {count}, got {len(values)}.")
        settings = dict(temperature=temperature, top_k=top_k, top_p=top_p, guidance_scale=guidance_scale)
        self._interrupt = False
        height, width, _ = self.transformer.config.code_shape
        steps = itertools.count()
        is_whole = True  # whether all positions of a batch are drawn, as they are but for an interruption
        batches = 1 if candidates is None else -(-count * candidates // candidate_batch_size)

        with self.progress_bar(total=batches * height * width) as progress_bar:

            def on_position(position: int, codes: torch.LongTensor) -> torch.LongTensor | bool | None:
                nonlocal is_whole
                progress_bar.update()
                replaced = None
                if callback_on_step_end is not None:
                    tensors = {name: codes.clone() for name in callback_on_step_end_tensor_inputs or ()}
                    answer = callback_on_step_end(self, next(steps), position, tensors)
                    if answer is not None and not isinstance(answer, Mapping):
                        raise ValueError(
                            f"`callback_on_step_end` must return a dictionary or None, got {type(answer).__name__}."
                        )
                    replaced = (answer or {}).get("codes")
                    if isinstance(replaced, bool):  # which `generate` would take for whether to go on
                        raise ValueError(f"the callback's codes must be a tensor or None, got {replaced}.")
                if self.interrupt:
                    is_whole = position == height * width - 1
                    if replaced is not None:
                        self.transformer.check_codes("the callback's codes", replaced, (len(codes),))
                        codes.copy_(replaced)
                    return False
                return replaced

            def draw(
                rows: list[int], generators: torch.Generator | list[torch.Generator] | None
            ) -> tuple[torch.LongTensor, bool]:
                def of_rows(values: torch.Tensor | None) -> torch.Tensor | None:
                    return values if values is None or len(values) == 1 else values[rows]

                codes = self.transformer.generate(
                    input_ids[rows].to(self._execution_device),
                    negative_input_ids=of_rows(negative_input_ids),
                    known_codes=of_rows(known_codes),
                    known_mask=of_rows(known_mask) if "known_mask" in given else known_mask,
                    generator=generators,
                    callback=on_position,
                    **settings,
                )
                return codes, is_whole

            scores = None
            if candidates is None:
                codes, _ = draw([row for row in range(count) for _ in range(num_images_per_prompt)], generator)
            else:
                codes, scores = select_codes(
                    draw, score, count, num_images_per_prompt, candidates, candidate_batch_size, generator,
                    lambda: self.interrupt,
                )  # fmt: skip
        images = codes
        if output_type != "latent":
            at_once = len(codes) if candidates is None else candidate_batch_size
            pixel_values = torch.cat([self.rqvae.decode(each) for each in codes.split(at_once)])
            images = self._postprocess(pixel_values, output_type)
        self.maybe_free_model_hooks()
        if return_dict:
            return RQImagePipelineOutput(images=images, scores=scores)
        return (images,) if scores is None else (images, scores)

    def encode_prompt(self, prompt: str | list[str], name: str = "prompt") -> torch.LongTensor:
        """Ids of captions, `(B, condition_length)`; `name` is what an error calls them.

        What does not fit is cut with a warning that shows it. Text of which the tokenizer knows no letter, such as one
        in another script, becomes the null condition of a model that was trained with one, with a warning.

        Raises:
            `ValueError`: no captions, or a model without captions.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(prompts, (list, tuple)) or not all(isinstance(text, str) for text in prompts):
            raise ValueError(f"`{name}` must be a string or a list of strings, got {prompt!r}.")
        if not prompts:
            raise ValueError(f"`{name}` must hold at least one caption, got an empty list.")
        if self.tokenizer is None:
            raise ValueError(f"`{name}` needs a pipeline with a `tokenizer`; this one has none.")
        for text in prompts:
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(f"`{name}` must be text, got a half of a surrogate pair in {text!r}.")
        length, options = self.tokenizer.model_max_length, {"add_special_tokens": False, "verbose": False}
        length -= self.tokenizer.num_special_tokens_to_add()  # what is left for text
        with _tokenizer_lock:
            whole = self.tokenizer(list(prompts), padding=False, truncation=False, **options).input_ids
            fitted = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
        null = None if self.transformer is None else self.transformer.config.null_condition_ids
        for row, (text, ids) in enumerate(zip(prompts, whole, strict=True)):
            taken = ids[:length]
            known = [index for index in taken if index != self.tokenizer.unk_token_id]
            if len(known) < len(taken) and not any(map(str.isalpha, self.tokenizer.decode(known))):
                logger.warning(f"The tokenizer knows no letter of the prompt {text!r}: it says nothing to the model.")
                if null is not None:
                    fitted.input_ids[row] = torch.tensor(null)
            elif len(ids) > length:
                cut = self.tokenizer.decode(ids[length:])
                logger.warning(f"The prompt was cut to {length} tokens; this part is not used: {cut!r:.400}")
        return fitted.input_ids

    def get_label_ids(self, labels: int | str | list[int | str]) -> list[int]:
        """Class ids of names (whole, or one of the alternatives between commas; case does not matter) or of ids, also
        in an array or a tensor.

        Raises:
            `ValueError`: a name or id that the model does not have.
        """
        if self.transformer is None:
            raise ValueError("`transformer` must be loaded, which knows the labels, got None.")
        config = self.transformer.config
        return ids_of_labels(labels, config.id2label or {}, config.class_ids)

    def _condition(self, prompt, class_labels) -> torch.LongTensor:
        """Condition ids `(B, S)` of a prompt, of class labels, or of nothing."""
        if prompt is not None:
            return self.encode_prompt(prompt)
        if class_labels is not None:
            return torch.tensor(self.get_label_ids(class_labels))[:, None]
        return torch.zeros(1, 1, dtype=torch.long)

    def _scorer(self, prompt, class_labels, input_ids, known_mask, ranker, classifier, weight) -> Score:
        """`score(codes, rows)` of candidates, by the transformer, a ranker of captions or a classifier of labels."""
        likelihoods = likelihood_scorer(self.transformer, input_ids.to(self._execution_device), known_mask)
        if is_likelihood(ranker):
            return likelihoods
        if ranker is not None:
            if prompt is None:
                raise ValueError("`ranker` needs a `prompt` to compare pictures with, unless it is 'likelihood'.")
            scorer = ranker if isinstance(ranker, CLIPRanker) else CLIPRanker(ranker)
            targets = [prompt] if isinstance(prompt, str) else list(prompt)
        else:
            config = self.transformer.config
            if class_labels is None:
                raise ValueError("`classifier` needs `class_labels`: it tells how sure it is of them.")
            scorer = classifier if isinstance(classifier, ImageClassifier) else ImageClassifier(classifier)
            of_class = scorer.class_ids(config.id2label, config.class_ids)
            targets = [of_class[label] for label in self.get_label_ids(class_labels)]
        targets = targets * (len(input_ids) if len(targets) == 1 else 1)
        scorer.to(self._execution_device)
        return with_likelihood(
            lambda codes, rows: scorer.score(self.rqvae.decode(codes), [targets[row] for row in rows]),
            likelihoods,
            weight,
        )

    def _check_inputs(self, prompt, class_labels, sees_pictures, counts, output_type, tensor_inputs) -> None:
        if self.transformer is None or (self.rqvae is None and output_type != "latent"):
            raise ValueError("`transformer` and, except for output_type='latent', `rqvae` must be loaded, got None.")
        if self.rqvae is None and sees_pictures:
            raise ValueError("`rqvae` must be loaded for `ranker` and `classifier` that see pictures, got None.")
        config = self.transformer.config
        if prompt is not None and class_labels is not None:
            raise ValueError("`prompt` and `class_labels` exclude each other, got both.")
        if config.condition_length > 1 and prompt is None:
            raise ValueError("`prompt` must be given: this model draws pictures of captions.")
        if config.condition_length == 1:
            if prompt is not None:
                raise ValueError(f"`prompt` must be None: this model knows no captions, got {prompt!r}.")
            if config.vocab_size > 1 and class_labels is None:
                raise ValueError(f"`class_labels` must be given: this model has {config.num_classes} classes.")
            if config.vocab_size == 1 and class_labels is not None:
                raise ValueError(f"`class_labels` must be None: this model is unconditional, got {class_labels!r}.")
        for name, number in counts.items():
            if isinstance(number, bool) or not isinstance(number, Integral):
                raise ValueError(f"`{name}` must be an integer, got {number!r}.")
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}.")
        self._check_output_type(output_type)
        unknown = [name for name in tensor_inputs or () if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be in {self._callback_tensor_inputs}, got {unknown}."
            )

    @staticmethod
    def _check_output_type(output_type: str) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, got {output_type!r}.")


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
        raise ValueError(
            "`transformer` and `rqvae` must have one codebook, got two that differ: they do not belong together."
        )


def component_subfolder(name_or_path: str | Path, component: str, **options) -> str:
    """Where to find a component of a pipeline, for `from_pretrained(name_or_path, subfolder=...)`.

    Args:
        name_or_path: Hub id or folder, of a pipeline or of the component alone.
        component: "rqvae", "transformer" or "tokenizer".
        options: of `from_pretrained`; those of downloads are heeded.

    Returns:
        `component` if `name_or_path` is a pipeline, else "".

    Raises:
        `ValueError`: neither a folder nor a Hub id that can be reached or is in the cache.
    """
    if Path(name_or_path).is_dir():
        is_pipeline = (Path(name_or_path) / "model_index.json").is_file()
    else:
        try:
            index = cached_file(
                str(name_or_path), "model_index.json", _raise_exceptions_for_missing_entries=False,
                **download_options(options),
            )  # fmt: skip
            is_pipeline = index is not None
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
    subfolder = component_subfolder(name_or_path, component, **kwargs)
    return load_whole(component_class, name_or_path, subfolder=subfolder, **kwargs)
