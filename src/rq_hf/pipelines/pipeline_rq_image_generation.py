# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pictures from captions, class labels or nothing: RQ-Transformer, RQ-VAE and caption tokenizer in one pipeline.

Symbols: B pictures, N prompts or labels, S condition tokens, H x W positions, D code depth.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..models.base import named_errors
from ..models.configuration_rq_transformer import CODE_FIELDS
from .editing import EditingMixin
from .labels import ids_of_labels, match_classes
from .lora import LoraMixin
from .pipeline_output import RQImagePipelineOutput, check_output_type
from .selection import (
    MAX_PER_CALL,
    BestCandidates,
    CLIPRanker,
    ImageClassifier,
    candidates_per_prompt,
    first_drawn_depth,
)
from .sharing import SharingMixin
from .text_encoding import NO_TOKEN, embed_ids, name_emoji, rewrite_ids, tokenize_texts

logger = logging.get_logger(__name__)


class RQImageGenerationPipeline(EditingMixin, LoraMixin, SharingMixin, DiffusionPipeline):
    r"""
    Generates pictures: an RQ-Transformer draws codes, an RQ-VAE decodes them.

    Args:
        rqvae ([`RQVAEModel`]): Decodes codes to pictures.
        transformer ([`RQTransformerForImageGeneration`]): Draws codes. Its codebook must be the RQ-VAE's.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Turns captions into ids, for models conditioned on captions.
        text_encoder (`PreTrainedModel`, *optional*):
            Turns ids of its tokenizer into vectors, for a transformer with `condition_dim`. Any model of transformers
            fits whose output has a `last_hidden_state`: BERT, T5's encoder, CLIP's text model, a decoder model.
        prompt_rewriter (`PreTrainedModel`, *optional*):
            A model with a token head, which replaces the ids of a prompt by the likeliest ones, in one call, for a
            transformer that knows few wordings.
        sampling (`dict`, *optional*):
            Default settings for `transformer.generation_config`, any of `transformer.sampling_fields`.

    Attributes:
        candidate_batch_size (`int`, defaults to 16): Candidates drawn, pictures decoded or prompts rewritten at once.
        interrupt (`bool`): Whether the call stops after this step. A callback sets `pipe._interrupt = True`.

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

    model_cpu_offload_seq = "prompt_rewriter->text_encoder->transformer->rqvae"
    _optional_components = ["tokenizer", "text_encoder", "prompt_rewriter"]
    _callback_tensor_inputs = ["codes"]
    candidate_batch_size = 16

    def __init__(
        self,
        rqvae: PreTrainedModel,
        transformer: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder: PreTrainedModel | None = None,
        prompt_rewriter: PreTrainedModel | None = None,
        sampling: dict | None = None,
    ):
        super().__init__()
        check_components(rqvae, transformer, tokenizer, text_encoder, prompt_rewriter)
        self.register_modules(
            rqvae=rqvae, transformer=transformer, tokenizer=tokenizer, text_encoder=text_encoder,
            prompt_rewriter=prompt_rewriter,
        )  # fmt: skip
        if transformer is not None:
            for name, value in (sampling or {}).items():
                if name not in transformer.sampling_fields:
                    names = list(transformer.sampling_fields)
                    raise ValueError(f"`sampling` must have keys among {names}, got {name!r}.")
                setattr(transformer.generation_config, name, value)
        is_grey = rqvae is not None and rqvae.config.num_channels == 1
        colours = {"do_convert_rgb": not is_grey, "do_convert_grayscale": is_grey}
        self.image_processor = VaeImageProcessor(do_resize=False, **colours)
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """See [`DiffusionPipeline.from_pretrained`]. `use_safetensors` is `True` unless given. A `transformer` that is
        given keeps its own sampling settings."""
        if kwargs.get("transformer") is not None:
            kwargs.setdefault("sampling", None)
        name = str(pretrained_model_name_or_path)
        with named_errors(name):
            return super().from_pretrained(name, **{"use_safetensors": True, **kwargs})

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves a pipeline; see [`DiffusionPipeline.save_pretrained`]. The transformer's sampling settings go into
        model_index.json, since diffusers does not download generation_config.json.

        Raises:
            `ValueError`: a transformer with an adapter, or a folder without a name.
        """
        if not str(save_directory):
            raise ValueError("`save_directory` must name a folder, got ''.")
        if getattr(self.transformer, "peft_config", None):
            advice = "Call `pipe.fuse_lora()` to keep it, then `pipe.unload_lora_weights()`."
            raise ValueError(f"`transformer` must be saved without an adapter. {advice}")
        if self.transformer is not None:
            names = self.transformer.sampling_fields
            settings = {name: getattr(self.transformer.generation_config, name, None) for name in names}
            self.register_to_config(sampling={name: value for name, value in settings.items() if value is not None})
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        class_labels: int | str | list[int | str] | torch.Tensor | None = None,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        rewrite_prompt: bool = True,
        num_images_per_prompt: int = 1,
        temperature: float | list[float] | None = None,
        top_k: int | list[int] | None = None,
        top_p: float | list[float] | None = None,
        guidance_scale: float | None = None,
        num_candidates: int | None = None,
        ranker: CLIPRanker | Literal["likelihood"] | None = None,
        classifier: ImageClassifier | None = None,
        acceptance_rate: float | None = None,
        known_codes: torch.LongTensor | None = None,
        known_mask: torch.BoolTensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffusionPipeline, int, int, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...] = ("codes",),
        **settings: Any,
    ) -> RQImagePipelineOutput | tuple:
        r"""Generates pictures.

        Args:
            prompt (`str` or `list[str]`, *optional*):
                Captions, for a model trained on captions; see [`encode_prompt`].
            class_labels (`int`, `str`, a list of them, `torch.Tensor` or `np.ndarray`, *optional*):
                Class ids or names, for a class-conditional model.
            negative_prompt (`str` or `list[str]`, *optional*):
                What guidance leads away from; one, or one per prompt. Needs a `guidance_scale`.
            prompt_embeds, negative_prompt_embeds (`torch.Tensor` of shape `(N, S, condition_dim)`, *optional*):
                In place of prompts, for a transformer with `condition_dim`; see [`encode_prompt`].
            rewrite_prompt (`bool`, defaults to `True`): Whether the `prompt_rewriter` reads prompts, if there is one.
            num_images_per_prompt (`int`, defaults to 1): Pictures per prompt or label, which follow each other.
            temperature, top_k, top_p, guidance_scale, settings (*optional*):
                Settings of the transformer's `generate`, such as `num_draft_steps` of a contextual one. The defaults
                are those of `transformer.generation_config`.
            num_candidates, ranker (`int` and [`CLIPRanker`] or `"likelihood"`, *optional*):
                Re-ranking (App. B.5): draw `num_candidates` pictures per prompt and return the best, by CLIP or by the
                transformer's own `log_likelihood`.
            classifier, acceptance_rate ([`ImageClassifier`] and `float`, *optional*):
                Rejection sampling (App. B.4): draw `num_images_per_prompt / acceptance_rate` pictures per label,
                rounded up, and return those in which the classifier is surest of the label.
            known_codes (`torch.LongTensor` of shape `(1 or N, H, W, D)`, *optional*): Codes to keep.
            known_mask (`torch.BoolTensor` of shape `(H, W)`, `(H, W, D)` or `(1 or N, H, W, D)`, *optional*):
                Where to keep them, everywhere by default.
            generator (`torch.Generator` or a list of one per picture, *optional*):
                Makes the pictures reproducible. With one per picture a batch equals its singles, and the candidates of
                a prompt draw from the generators of its pictures in turn.
            output_type (`str`, defaults to `"pil"`):
                `"pil"`, `"np"` `(B, height, width, 3)` or `"pt"` `(B, 3, height, width)` in [0, 1], or `"latent"`
                for the codes `(B, H, W, D)`.
            return_dict (`bool`, defaults to `True`): Whether to return an [`RQImagePipelineOutput`] or a tuple.
            callback_on_step_end (*optional*):
                `callback(pipe, step, position, {"codes": codes})`, called after each step of the transformer in each
                batch. Codes `(B, H, W, D)` that are not drawn yet are 0. It may return a dictionary with other
                `codes`. `pipe._interrupt = True` stops the call, which returns the codes drawn so far; of candidates,
                the best of the finished batches.
            callback_on_step_end_tensor_inputs (`list[str]`, defaults to `("codes",)`): Tensors for the callback.

        Returns:
            [`RQImagePipelineOutput`] with `images` and, after a selection, their `scores`, or a tuple of these.

        Raises:
            `ValueError`: an argument that does not fit the model or the other arguments.
        """
        # 1. Check the arguments
        self._check_inputs(prompt, prompt_embeds, class_labels, output_type, callback_on_step_end_tensor_inputs)
        if unknown := sorted(settings.keys() - {*self.transformer.sampling_fields}):
            known = list(self.transformer.sampling_fields)
            raise ValueError(
                f"Settings must be among {known}, got {unknown}. "
                "The page 'Coming from diffusers' translates those of diffusers."
            )
        num_drawn = candidates_per_prompt(num_images_per_prompt, num_candidates, ranker, classifier, acceptance_rate)

        # 2. Encode the conditions, one row per prompt
        positive = self._encode_condition(prompt, prompt_embeds, class_labels, rewrite_prompt)
        negative = {}
        if negative_prompt is not None or negative_prompt_embeds is not None:
            negative = self._encode_condition(
                negative_prompt, negative_prompt_embeds, None, rewrite_prompt, "negative_"
            )
        conditions, num_rows = self._one_row_per_prompt(positive, negative, known_codes, known_mask)
        total = num_rows * num_drawn
        if total > MAX_PER_CALL:
            names = "`num_images_per_prompt` and `num_candidates`"
            raise ValueError(f"{names} must give at most {MAX_PER_CALL} pictures, got {total}.")

        # 3. Prepare the selection; without one all pictures are generated in one batch
        score = self._make_score(ranker, classifier, prompt, positive, conditions)
        best = BestCandidates(num_images_per_prompt)
        batch_size = total if score is None else self.candidate_batch_size

        # 4. Generate codes, batch by batch, and keep the best candidates of each prompt
        self._interrupt = False
        starts, num_steps = range(0, total, batch_size), self.transformer.num_steps(**settings)
        settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance_scale": guidance_scale}
        with self.progress_bar(total=len(starts) * num_steps) as progress_bar:

            def on_step_end(first_step: int, position: int, codes: torch.LongTensor) -> torch.LongTensor | None:
                step = first_step + position
                progress_bar.update(step + 1 - progress_bar.n)
                if callback_on_step_end is None:
                    return None
                tensors = {name: codes.clone() for name in callback_on_step_end_tensor_inputs}
                return (callback_on_step_end(self, step, position, tensors) or {}).get("codes")

            for index, start in enumerate(starts):
                candidates = range(start, min(start + batch_size, total))
                rows = [candidate // num_drawn for candidate in candidates]  # the prompt of each
                codes = self.transformer.generate(
                    **{name: values[rows] for name, values in conditions.items()},
                    **settings,
                    generator=one_per_candidate(generator, candidates, total, num_drawn, num_images_per_prompt),
                    callback=partial(on_step_end, index * num_steps),
                    interrupt=lambda: self.interrupt,
                )
                if score is not None and (index == 0 or not self.interrupt):  # only the first may be unfinished
                    best.add(rows, codes, score(codes, rows))
                if self.interrupt:
                    break
        codes, scores = (codes, None) if score is None else best.result()

        # 5. Decode and postprocess
        images = self._decode(codes, output_type)

        # 6. Offload all models
        self.maybe_free_model_hooks()
        output = RQImagePipelineOutput(images, scores)
        return output if return_dict else output.to_tuple()

    def encode_prompt(
        self, prompt: str | list[str], name: str = "prompt", rewrite: bool = True
    ) -> torch.LongTensor | torch.Tensor:
        """The condition that the transformer takes for captions; errors call them `name`.

        A caption that does not fit is cut, with a warning that shows what is lost. A caption of which the tokenizer
        knows nothing, such as one in another script, becomes the model's null condition, with a warning. Emoji are
        read as their names where tokenizer_config.json has `emoji_names`, a dictionary of names without skin tones.

        Args:
            prompt (`str` or `list[str]`): Captions.
            rewrite (`bool`, defaults to `True`): Whether the `prompt_rewriter` reads them, if there is one.

        Returns:
            Ids `(N, condition_length)`, or with a `text_encoder` the `prompt_embeds` `(N, condition_length,
            condition_dim)`, zeros where a caption has no token.

        Raises:
            `ValueError`: no captions, or a pipeline without a tokenizer.
        """
        condition, notes = self._read_prompt(prompt, name, rewrite)
        for note in notes:
            logger.warning(note)
        return condition

    def rewrite(self, prompt: str | list[str]) -> str | list[str]:
        """What the `prompt_rewriter` reads prompts as. Without one, the tokens of the prompts that are used. It does
        not warn of a cut. More than `candidate_batch_size` prompts show a progress bar."""
        texts, batches, size = [], [prompt], self.candidate_batch_size
        if isinstance(prompt, (list, tuple)) and len(prompt) > size:
            batches = self.progress_bar([prompt[start : start + size] for start in range(0, len(prompt), size)])
        for batch in batches:
            decoded = self.tokenizer.batch_decode(self._read_prompt(batch)[0], skip_special_tokens=True)
            texts += [text.replace(" ,", ",") for text in decoded]
        return texts[0] if isinstance(prompt, str) else texts

    def get_label_ids(self, labels: int | str | list[int | str] | torch.Tensor) -> list[int]:
        """Class ids of labels: ids, or names in whatever case, such as "tench" of "tench, Tinca tinca"."""
        return ids_of_labels(labels, self.transformer.config.id2label, self.transformer.config.class_ids)

    def _read_prompt(self, prompt, name: str = "prompt", rewrite: bool = True) -> tuple[torch.Tensor, list[str]]:
        """The result of [`encode_prompt`], and its warnings."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        is_list = isinstance(prompts, (list, tuple)) and all(isinstance(text, str) for text in prompts)
        if not is_list or not prompts or re.search("[\ud800-\udfff]", "".join(prompts)):  # bytes that were no UTF-8
            raise ValueError(f"`{name}` must be a caption or a list of at least one, got {prompt!r:.80}.")
        config, takes_embeds = self.transformer.config, self.transformer.config.condition_dim is not None
        if self.tokenizer is None or takes_embeds and self.text_encoder is None:
            needed = "a `tokenizer` and a `text_encoder`" if takes_embeds else "a `tokenizer`"
            raise ValueError(f"`{name}` needs a pipeline with {needed}.")
        if emoji_names := self.tokenizer.init_kwargs.get("emoji_names"):
            prompts = [name_emoji(text, emoji_names) for text in prompts]
        length = config.condition_length - self.tokenizer.num_special_tokens_to_add()
        whole = self.tokenizer(list(prompts), add_special_tokens=False, padding=False, truncation=False, verbose=False)
        if takes_embeds:
            input_ids = tokenize_texts(prompts, self.tokenizer, config.condition_length)
        else:
            options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
            input_ids = self.tokenizer(list(prompts), **options).input_ids
        is_unknown, notes = torch.zeros(len(input_ids), dtype=torch.bool), []
        for row, (text, ids) in enumerate(zip(prompts, whole.input_ids, strict=True)):
            is_unknown[row] = set(ids[:length]) == {self.tokenizer.unk_token_id}
            if is_unknown[row]:
                notes.append(f"The tokenizer knows nothing of the prompt {text!r:.80}: the model gets no condition.")
            elif len(ids) > length:
                cut = self.tokenizer.decode(ids[length:])
                notes.append(f"The prompt was cut to {length} tokens; this part is not used: {cut!r:.400}")
        if takes_embeds:
            input_ids[is_unknown] = NO_TOKEN
            return embed_ids(input_ids.to(self._execution_device), self.text_encoder), notes
        if self.prompt_rewriter is not None and rewrite:
            input_ids = rewrite_ids(input_ids.to(self._execution_device), self.prompt_rewriter)
        if config.null_condition_ids is not None:
            input_ids[is_unknown] = torch.tensor(config.null_condition_ids, device=input_ids.device)
        return input_ids, notes

    def _check_inputs(self, prompt, prompt_embeds, class_labels, output_type, tensor_inputs) -> None:
        expected = self.transformer.config.condition_name
        given = {"prompt": prompt, "prompt_embeds": prompt_embeds, "class_labels": class_labels}
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            if name.removesuffix("_embeds") != expected:
                takes = f"`{expected}`" if expected else "no condition"
                raise ValueError(f"`{name}` must be None: this model takes {takes}, got {value!r:.80}.")
        if expected and not given:
            raise ValueError(f"`{expected}` must be given: this model draws from it, got None.")
        if len(given) > 1:
            raise ValueError("`prompt` and `prompt_embeds` exclude each other, got both.")
        check_output_type(output_type)
        if unknown := [name for name in tensor_inputs if name not in self._callback_tensor_inputs]:
            known = self._callback_tensor_inputs
            raise ValueError(f"`callback_on_step_end_tensor_inputs` must be in {known}, got {unknown}.")

    def _encode_condition(
        self, prompt, prompt_embeds, class_labels, rewrite: bool, prefix: str = ""
    ) -> dict[str, torch.Tensor]:
        """The condition as an argument of the transformer, `(N, S)` or `(N, S, condition_dim)`."""
        if prompt_embeds is not None:
            if not isinstance(prompt_embeds, torch.Tensor):
                raise ValueError(f"`{prefix}prompt_embeds` must be a tensor, got {type(prompt_embeds).__name__}.")
            return {f"{prefix}prompt_embeds": prompt_embeds}
        if prompt is not None:
            condition = self.encode_prompt(prompt, f"{prefix}prompt", rewrite)
            return {f"{prefix}{'prompt_embeds' if condition.is_floating_point() else 'input_ids'}": condition}
        if class_labels is not None:
            return {"input_ids": torch.tensor(self.get_label_ids(class_labels))[:, None]}  # (N, 1)
        return {"input_ids": torch.zeros(1, 1, dtype=torch.long)}  # the start id

    def _one_row_per_prompt(self, positive, negative, known_codes, known_mask) -> tuple[dict[str, Any], int]:
        """Arguments of `generate`, each with N rows, and N."""
        conditions, num_rows = positive | negative, len(next(iter(positive.values())))
        if known_codes is not None:
            self.transformer.check_codes("`known_codes`", known_codes)
            conditions["known_codes"] = known_codes
            num_rows = len(known_codes) if num_rows == 1 else num_rows  # one prompt for several pictures
        if known_mask is not None:
            known_mask = torch.as_tensor(known_mask)
            if known_mask.ndim == 2:
                known_mask = known_mask[..., None].expand(*known_mask.shape, self.transformer.config.code_shape[2])
            conditions["known_mask"] = known_mask[None] if known_mask.ndim == 3 else known_mask  # (1 or N, H, W, D)
        for name, values in conditions.items():
            if len(values) not in (1, num_rows):
                names = {"negative_input_ids": "`negative_prompt`", "known_codes": "`known_codes` or `image`"}
                raise ValueError(f"{names.get(name, f'`{name}`')} must be one or {num_rows}, got {len(values)}.")
            conditions[name] = values.expand(num_rows, *values.shape[1:]).to(self._execution_device)
        return conditions, num_rows

    def _make_score(self, ranker, classifier, prompt, positive, conditions) -> Callable | None:
        """`score(codes, rows)` of candidates and the rows of their conditions; `None` without a selection."""
        if ranker is None and classifier is None:
            return None
        if ranker == "likelihood":
            depth = first_drawn_depth(conditions.get("known_mask"))
            (name,) = positive
            return lambda codes, rows: self.transformer.log_likelihood(
                codes=codes, depth=depth, **{name: conditions[name][rows]}
            )
        if ranker is not None:
            if not isinstance(ranker, CLIPRanker):
                raise ValueError(f"`ranker` must be a CLIPRanker or 'likelihood', got {ranker!r:.80}.")
            if prompt is None:
                raise ValueError("`ranker` needs a `prompt` to compare pictures with, unless it is 'likelihood'.")
            scorer, targets = ranker, [prompt] if isinstance(prompt, str) else list(prompt)
            targets = targets * len(next(iter(conditions.values()))) if len(targets) == 1 else targets
        else:
            if not isinstance(classifier, ImageClassifier):
                raise ValueError(f"`classifier` must be an ImageClassifier, got {classifier!r:.80}.")
            config = self.transformer.config
            if config.condition_name != "class_labels":
                raise ValueError("`classifier` needs `class_labels`, whose probability it gives.")
            classes = match_classes(config.id2label, config.class_ids, classifier.model.config.id2label)
            scorer, targets = classifier, [classes[label] for label in conditions["input_ids"][:, 0].tolist()]
        scorer.model.to(self._execution_device)
        return lambda codes, rows: scorer.score(self.rqvae.decode(codes), [targets[row] for row in rows])

    def _decode(self, codes: torch.LongTensor, output_type: str):
        """Images of `output_type`, decoded in batches; for "latent" the codes themselves."""
        if output_type == "latent":
            return codes
        pixel_values = torch.cat([self.rqvae.decode(batch) for batch in codes.split(self.candidate_batch_size)])
        return self.image_processor.postprocess(pixel_values.float(), output_type=output_type)


def check_components(rqvae, transformer, tokenizer, text_encoder=None, prompt_rewriter=None) -> None:
    """Checks that components belong together; each may be `None`.

    Raises:
        `ValueError`: components of another kind, or code shapes, codebooks, widths or caption lengths that differ.
    """
    needed = {"rqvae": (rqvae, "decode"), "transformer": (transformer, "condition_states")}
    for name, (model, method) in needed.items():
        if model is not None and not (isinstance(model, torch.nn.Module) and hasattr(model, method)):
            raise ValueError(f"`{name}` must be a model of rq_hf with `{method}`, got {type(model).__name__}.")
    if not isinstance(tokenizer, PreTrainedTokenizerBase | None):
        raise ValueError(f"`tokenizer` must be a tokenizer of transformers, got {type(tokenizer).__name__}.")
    for name, model in (("text_encoder", text_encoder), ("prompt_rewriter", prompt_rewriter)):
        if not isinstance(model, PreTrainedModel | None):
            raise ValueError(f"`{name}` must be a model of transformers, got {type(model).__name__}.")
    if transformer is None:
        return
    config = transformer.config
    if text_encoder is not None:
        width = text_encoder.config.get_text_config().hidden_size
        if config.condition_dim != width:
            raise ValueError(f"`text_encoder` must be as wide as `condition_dim` {config.condition_dim}, got {width}.")
    if prompt_rewriter is not None:
        if config.condition_dim is not None or tokenizer is None:
            raise ValueError("`prompt_rewriter` needs a `tokenizer` and a transformer that takes ids.")
        size = prompt_rewriter.config.vocab_size
        if not len(tokenizer) <= size <= config.vocab_size:
            expected = f"from {len(tokenizer)} to {config.vocab_size}"
            raise ValueError(f"`prompt_rewriter` must have a `vocab_size` {expected}, got {size}.")
    if tokenizer is not None and config.condition_dim is None:
        size, length = len(tokenizer), tokenizer.model_max_length
        if size > config.vocab_size or length != config.condition_length:
            expected = f"{config.vocab_size} ids and `model_max_length` {config.condition_length}"
            raise ValueError(f"`tokenizer` must have at most {expected}, as the transformer, got {size} and {length}.")
    if rqvae is None:
        return
    for name in CODE_FIELDS:
        ours, theirs = getattr(rqvae.config, name), getattr(transformer.config, name)
        if ours != theirs:
            raise ValueError(f"`transformer` must have the `{name}` of `rqvae`, {ours}, got {theirs}.")
    ours, theirs = rqvae.codebook, transformer.codebook.weight
    if ours.is_meta or theirs.is_meta:  # offloaded
        return
    # The transformer's codebook may have been rounded to bfloat16, which has 8 significant bits.
    if not torch.allclose(ours.to(theirs.device).float(), theirs.float(), rtol=2**-7, atol=1e-6):
        raise ValueError("`transformer` must have the codebook of `rqvae`, got that of another RQ-VAE.")


def one_per_candidate(generator, candidates: range, total: int, num_drawn: int, num_images: int) -> Any:
    """The generators of `candidates` out of `total`; those of a prompt use the generators of its pictures in turn."""
    if not isinstance(generator, (list, tuple)):
        return generator
    num_returned = total // num_drawn * num_images
    if len(generator) != num_returned:
        expected = f"one or a list of one per returned picture ({num_returned})"
        raise ValueError(f"`generator` must be {expected}, got {len(generator)}.")
    return [generator[index // num_drawn * num_images + index % num_drawn % num_images] for index in candidates]
