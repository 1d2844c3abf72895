# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pictures from captions, class labels or nothing: RQ-Transformer, RQ-VAE and caption tokenizer in one pipeline.

Symbols: B pictures, N prompts or labels, S condition tokens, H x W positions, D code depth.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

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
    ):
        super().__init__()
        check_components(rqvae, transformer)
        self.register_modules(
            rqvae=rqvae, transformer=transformer, tokenizer=tokenizer, text_encoder=text_encoder,
            prompt_rewriter=prompt_rewriter,
        )  # fmt: skip
        is_grey = rqvae is not None and rqvae.config.num_channels == 1
        colours = {"do_convert_rgb": not is_grey, "do_convert_grayscale": is_grey}
        factor = 8 if rqvae is None else rqvae.config.downsample_factor
        self.image_processor = VaeImageProcessor(vae_scale_factor=factor, do_resize=False, **colours)
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """See [`DiffusionPipeline.from_pretrained`]. `use_safetensors` is `True` unless given."""
        return super().from_pretrained(str(pretrained_model_name_or_path), **{"use_safetensors": True, **kwargs})

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves a pipeline; see [`DiffusionPipeline.save_pretrained`].

        Raises:
            `ValueError`: a transformer with an adapter, or a folder without a name.
        """
        if not str(save_directory):
            raise ValueError("`save_directory` must name a folder, got ''.")
        if getattr(self.transformer, "peft_config", None):
            advice = "Call `pipe.fuse_lora()` to keep it, then `pipe.unload_lora_weights()`."
            raise ValueError(f"`transformer` must be saved without an adapter. {advice}")
        super().save_pretrained(save_directory, *args, **kwargs)

    def save_config(self, save_directory, *args, **kwargs):
        """Writes model_index.json, with the transformer's generation config: diffusers does not download the file
        that the transformer has. [`RQTransformerForImageGeneration.from_pretrained`] reads it."""
        super().save_config(save_directory, *args, **kwargs)
        if self.transformer is not None:
            path = Path(save_directory, self.config_name)
            index = json.loads(path.read_text(encoding="utf-8"))
            index["_generation_config"] = self.transformer.generation_config.to_settings()
            path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffusionPipeline, int, int, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...] = ("codes",),
        class_labels: int | str | list[int | str] | torch.Tensor | None = None,
        rewrite_prompt: bool = True,
        temperature: float | list[float] | None = None,
        top_k: int | list[int] | None = None,
        top_p: float | list[float] | None = None,
        num_draft_steps: int | None = None,
        num_revise_rounds: int | None = None,
        num_revise_steps: int | None = None,
        revise_temperature: float | list[float] | None = None,
        revise_guidance_scale: float | None = None,
        generation_config: GenerationConfig | None = None,
        num_candidates: int | None = None,
        ranker: CLIPRanker | Literal["likelihood"] | None = None,
        classifier: ImageClassifier | None = None,
        acceptance_rate: float | None = None,
        known_codes: torch.LongTensor | None = None,
        known_mask: torch.BoolTensor | None = None,
    ) -> RQImagePipelineOutput | tuple:
        r"""Generates pictures.

        Args:
            prompt (`str` or `list[str]`, *optional*):
                Captions, for a model trained on captions; see [`encode_prompt`].
            height, width (`int`, *optional*): The size of the model's pictures in pixels; others are refused.
            negative_prompt (`str` or `list[str]`, *optional*):
                What guidance leads away from; one, or one per prompt. Without guidance it is not used.
            num_images_per_prompt (`int`, defaults to 1): Pictures per prompt or label, which follow each other.
            generator (`torch.Generator` or a list of one per picture, *optional*):
                Makes the pictures reproducible. With one per picture a batch equals its singles, and the candidates of
                a prompt draw from the generators of its pictures in turn.
            prompt_embeds, negative_prompt_embeds (`torch.Tensor` of shape `(N, S, condition_width)`, *optional*):
                In place of prompts; see [`encode_prompt`].
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
            class_labels (`int`, `str`, a list of them, `torch.Tensor` or `np.ndarray`, *optional*):
                Class ids or names, for a class-conditional model.
            rewrite_prompt (`bool`, defaults to `True`): Whether the `prompt_rewriter` reads prompts, if there is one.
            guidance_scale, temperature, top_k, top_p (*optional*): How codes are drawn; see [`RQGenerationConfig`].
            num_draft_steps, num_revise_rounds, num_revise_steps (*optional*):
                Passes of a contextual transformer; see [`RQGenerationConfig`].
            revise_temperature, revise_guidance_scale (*optional*):
                How its revisions are drawn, by default as the draft.
            generation_config ([`RQGenerationConfig`], *optional*):
                Replaces `transformer.generation_config`, from which settings that are `None` come.
            num_candidates, ranker (`int` and [`CLIPRanker`] or `"likelihood"`, *optional*):
                Re-ranking (App. B.5): draw `num_candidates` pictures per prompt and return the best, by CLIP or, by
                default, by the transformer's own `log_likelihood`.
            classifier, acceptance_rate ([`ImageClassifier`] and `float`, *optional*):
                Rejection sampling (App. B.4): draw `num_images_per_prompt / acceptance_rate` pictures per label,
                rounded up, and return those in which the classifier is surest of the label.
            known_codes (`torch.LongTensor` of shape `(1 or N, H, W, D)`, *optional*): Codes to keep.
            known_mask (`torch.BoolTensor` of shape `(H, W)`, `(H, W, D)` or `(1 or N, H, W, D)`, *optional*):
                Where to keep them, everywhere by default.

        Returns:
            [`RQImagePipelineOutput`] with `images` and, after a selection, their `scores`, or a tuple of these.

        Raises:
            `ValueError`: an argument that does not fit the model or the other arguments.
        """
        # 1. Check the arguments
        self._check_condition(prompt, prompt_embeds, class_labels)
        self._check_size(height, width)
        check_output_type(output_type)
        known = self._callback_tensor_inputs
        if unknown := [name for name in callback_on_step_end_tensor_inputs if name not in known]:
            raise ValueError(f"`callback_on_step_end_tensor_inputs` must be in {known}, got {unknown}.")
        ranker = "likelihood" if num_candidates is not None and ranker is None else ranker
        num_drawn = candidates_per_prompt(num_images_per_prompt, num_candidates, ranker, classifier, acceptance_rate)
        settings = self.transformer.settings_of_call(
            generation_config, temperature=temperature, top_k=top_k, top_p=top_p, guidance_scale=guidance_scale,
            num_draft_steps=num_draft_steps, num_revise_rounds=num_revise_rounds, num_revise_steps=num_revise_steps,
            revise_temperature=revise_temperature, revise_guidance_scale=revise_guidance_scale,
        )  # fmt: skip

        # 2. Encode the conditions, one row per prompt
        is_guided = settings.guidance_scale != 1.0 or settings.revise_guidance_scale not in (None, 1.0)
        labels = None if class_labels is None else self.get_label_ids(class_labels)
        if labels is None and self.transformer.config.condition_name is not None:
            prompt_embeds, negative_prompt_embeds = self.encode_prompt(
                prompt, None, 1, is_guided, negative_prompt, prompt_embeds, negative_prompt_embeds, rewrite_prompt
            )
        else:
            ids = torch.tensor([[0]] if labels is None else labels, device=self._execution_device)  # 0: the start id
            prompt_embeds = self.transformer.embed_ids(ids.view(-1, 1))  # (N, 1, n_e)
        conditions = {"prompt_embeds": prompt_embeds}
        if is_guided and negative_prompt_embeds is not None:
            conditions["negative_prompt_embeds"] = negative_prompt_embeds
        conditions, num_rows = self._one_row_per_prompt(conditions, known_codes, known_mask)
        total = num_rows * num_drawn
        if total > MAX_PER_CALL:
            names = "`num_images_per_prompt` and `num_candidates`"
            raise ValueError(f"{names} must give at most {MAX_PER_CALL} pictures, got {total}.")

        # 3. Prepare the selection; without one all pictures are generated in one batch
        score = self._make_score(ranker, classifier, prompt, labels, conditions)
        best = BestCandidates(num_images_per_prompt)
        batch_size = total if score is None else self.candidate_batch_size

        # 4. Generate codes, batch by batch, and keep the best candidates of each prompt
        self._interrupt = False
        starts, num_steps = range(0, total, batch_size), self.transformer.num_steps(settings)
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
                    generation_config=settings,
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

    _draw = __call__  # for `vary`, since a subclass may call it otherwise

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = False,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        rewrite_prompt: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Captions as the vectors that a call takes as `prompt_embeds` and `negative_prompt_embeds`.

        They are those of the `text_encoder`, zeros where a caption has no token, or without one those of the
        transformer's own embedding table. A caption that does not fit is cut, with a warning that shows what is lost.
        A caption of which the tokenizer knows nothing, such as one in another script, becomes the model's null
        condition, with a warning. Emoji are read as their names where tokenizer_config.json has `emoji_names`, a
        dictionary of names without skin tones.

        Args:
            prompt (`str` or `list[str]`, *optional*): Captions.
            device (`torch.device`, *optional*): Device of the vectors, by default the pipeline's.
            num_images_per_prompt (`int`, defaults to 1): Rows per prompt, which follow each other.
            do_classifier_free_guidance (`bool`, defaults to `False`): Whether to encode what guidance leads away from.
            negative_prompt (`str` or `list[str]`, *optional*): One, or one per prompt; by default no condition.
            prompt_embeds, negative_prompt_embeds (`torch.Tensor`, *optional*): Vectors in place of prompts.
            rewrite_prompt (`bool`, defaults to `True`): Whether the `prompt_rewriter` reads them, if there is one.

        Returns:
            Vectors `(N * num_images_per_prompt, S, condition_width)` of prompts, and of negative prompts or `None`.

        Raises:
            `ValueError`: no captions, a pipeline without a tokenizer, or guidance of a model without a null condition.
        """
        device = self._execution_device if device is None else torch.device(device)
        if prompt_embeds is None:
            prompt_embeds = self._embed_prompts(self._prompts("prompt", prompt), rewrite_prompt)
        if not isinstance(prompt_embeds, torch.Tensor):
            raise ValueError(f"`prompt_embeds` must be a tensor, got {type(prompt_embeds).__name__}.")
        prompt_embeds = prompt_embeds.to(device)
        if not do_classifier_free_guidance:
            return prompt_embeds.repeat_interleave(num_images_per_prompt, 0), None
        if negative_prompt_embeds is None and negative_prompt is None:
            negative_prompt_embeds = self.transformer.null_embeds()
        elif negative_prompt_embeds is None:
            prompts = self._prompts("negative_prompt", negative_prompt)
            negative_prompt_embeds = self._embed_prompts(prompts, rewrite_prompt)
        if not isinstance(negative_prompt_embeds, torch.Tensor):
            got = type(negative_prompt_embeds).__name__
            raise ValueError(f"`negative_prompt_embeds` must be a tensor, got {got}.")
        if len(negative_prompt_embeds) not in (1, len(prompt_embeds)):
            got = len(negative_prompt_embeds)
            raise ValueError(f"`negative_prompt` must be one or {len(prompt_embeds)}, got {got}.")
        negative_prompt_embeds = negative_prompt_embeds.to(prompt_embeds).expand_as(prompt_embeds)
        embeds = (prompt_embeds, negative_prompt_embeds)
        return tuple(each.repeat_interleave(num_images_per_prompt, 0) for each in embeds)

    def rewrite(self, prompt: str | list[str]) -> str | list[str]:
        """What the `prompt_rewriter` reads prompts as. Without one, the tokens of the prompts that are used. It does
        not warn of a cut. More than `candidate_batch_size` prompts show a progress bar."""
        texts, batches, size = [], [prompt], self.candidate_batch_size
        if isinstance(prompt, (list, tuple)) and len(prompt) > size:
            batches = self.progress_bar([prompt[start : start + size] for start in range(0, len(prompt), size)])
        for batch in batches:
            input_ids, _ = self._tokenize(self._prompts("prompt", batch))
            decoded = self.tokenizer.batch_decode(self._rewrite_ids(input_ids), skip_special_tokens=True)
            texts += [text.replace(" ,", ",") for text in decoded]
        return texts[0] if isinstance(prompt, str) else texts

    def get_label_ids(self, labels: int | str | list[int | str] | torch.Tensor) -> list[int]:
        """Class ids of labels: ids, or names in whatever case, such as "tench" of "tench, Tinca tinca"."""
        return ids_of_labels(labels, self.transformer.config.id2label, self.transformer.config.class_ids)

    def _prompts(self, name: str, prompt: Any) -> list[str]:
        """Checked captions, in which emoji have names."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        is_list = isinstance(prompts, (list, tuple)) and all(isinstance(text, str) for text in prompts)
        if not is_list or not prompts or re.search("[\ud800-\udfff]", "".join(prompts)):  # bytes that were no UTF-8
            raise ValueError(f"`{name}` must be a caption or a list of at least one, got {prompt!r:.80}.")
        takes_embeds = self.transformer.config.condition_dim is not None
        if self.tokenizer is None or takes_embeds and self.text_encoder is None:
            needed = "a `tokenizer` and a `text_encoder`" if takes_embeds else "a `tokenizer`"
            raise ValueError(f"`{name}` needs a pipeline with {needed}.")
        emoji_names = self.tokenizer.init_kwargs.get("emoji_names")
        return [name_emoji(text, emoji_names) for text in prompts] if emoji_names else list(prompts)

    def _tokenize(self, prompts: list[str]) -> tuple[torch.LongTensor, list[list[int]]]:
        """Ids `(N, S)` of captions, cut or filled to the length of a condition, and their ids before that."""
        config = self.transformer.config
        whole = self.tokenizer(prompts, add_special_tokens=False, padding=False, truncation=False, verbose=False)
        if config.condition_dim is not None:
            return tokenize_texts(prompts, self.tokenizer, config.condition_length), whole.input_ids
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return self.tokenizer(prompts, **options).input_ids, whole.input_ids

    def _rewrite_ids(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        if self.prompt_rewriter is None:
            return input_ids
        return rewrite_ids(input_ids.to(self._execution_device), self.prompt_rewriter)

    def _embed_prompts(self, prompts: list[str], rewrite_prompt: bool) -> torch.Tensor:
        """Vectors `(N, S, condition_width)` of captions; it warns of captions that are cut or unknown."""
        config, (input_ids, whole) = self.transformer.config, self._tokenize(prompts)
        length = config.condition_length - self.tokenizer.num_special_tokens_to_add()
        is_unknown = torch.tensor([set(ids[:length]) == {self.tokenizer.unk_token_id} for ids in whole])  # (N,)
        for text, ids, unknown in zip(prompts, whole, is_unknown.tolist(), strict=True):
            if unknown:
                logger.warning(f"The tokenizer knows nothing of the prompt {text!r:.80}: the model gets no condition.")
            elif len(ids) > length:
                cut = self.tokenizer.decode(ids[length:])
                logger.warning(f"The prompt was cut to {length} tokens; this part is not used: {cut!r:.400}")
        if config.condition_dim is not None:
            input_ids[is_unknown] = NO_TOKEN
            return embed_ids(input_ids.to(self._execution_device), self.text_encoder)
        input_ids = self._rewrite_ids(input_ids) if rewrite_prompt else input_ids
        if config.null_condition_ids is not None:
            input_ids[is_unknown] = torch.tensor(config.null_condition_ids, device=input_ids.device)
        return self.transformer.embed_ids(input_ids.to(self._execution_device))

    def _check_condition(self, prompt, prompt_embeds, class_labels) -> None:
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

    def _check_size(self, height: int | None, width: int | None) -> None:
        size = None if self.rqvae is None else self.rqvae.config.image_size
        if height not in (None, size) or width not in (None, size):
            raise ValueError(f"`height` and `width` must be the model's, {size} and {size}, got {height} and {width}.")

    def _one_row_per_prompt(self, conditions, known_codes, known_mask) -> tuple[dict[str, Any], int]:
        """Arguments of `generate`, each with N rows, and N."""
        num_rows = len(conditions["prompt_embeds"])
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
                name = "known_codes` or `image" if name == "known_codes" else name
                raise ValueError(f"`{name}` must be one or {num_rows}, got {len(values)}.")
            conditions[name] = values.expand(num_rows, *values.shape[1:]).to(self._execution_device)
        return conditions, num_rows

    def _make_score(self, ranker, classifier, prompt, labels, conditions) -> Callable | None:
        """`score(codes, rows)` of candidates and the rows of their conditions; `None` without a selection."""
        if ranker is None and classifier is None:
            return None
        if ranker == "likelihood":
            depth = first_drawn_depth(conditions.get("known_mask"))
            embeds = conditions["prompt_embeds"]
            return lambda codes, rows: self.transformer.log_likelihood(
                codes=codes, depth=depth, prompt_embeds=embeds[rows]
            )
        if ranker is not None:
            if not isinstance(ranker, CLIPRanker):
                raise ValueError(f"`ranker` must be a CLIPRanker or 'likelihood', got {ranker!r:.80}.")
            if prompt is None:
                raise ValueError("`ranker` needs a `prompt` to compare pictures with, unless it is 'likelihood'.")
            scorer, targets = ranker, [prompt] if isinstance(prompt, str) else list(prompt)
            targets = targets * len(conditions["prompt_embeds"]) if len(targets) == 1 else targets
        else:
            if not isinstance(classifier, ImageClassifier):
                raise ValueError(f"`classifier` must be an ImageClassifier, got {classifier!r:.80}.")
            config = self.transformer.config
            if config.condition_name != "class_labels":
                raise ValueError("`classifier` needs `class_labels`, whose probability it gives.")
            classes = match_classes(config.id2label, config.class_ids, classifier.model.config.id2label)
            labels = labels * len(conditions["prompt_embeds"]) if len(labels) == 1 else labels
            scorer, targets = classifier, [classes[label] for label in labels]
        scorer.model.to(self._execution_device)
        return lambda codes, rows: scorer.score(self.rqvae.decode(codes), [targets[row] for row in rows])

    def _decode(self, codes: torch.LongTensor, output_type: str):
        """Images of `output_type`, decoded in batches; for "latent" the codes themselves."""
        if output_type == "latent":
            return codes
        pixel_values = torch.cat([self.rqvae.decode(batch) for batch in codes.split(self.candidate_batch_size)])
        return self.image_processor.postprocess(pixel_values.float(), output_type=output_type)


def check_components(rqvae: PreTrainedModel | None, transformer: PreTrainedModel | None) -> None:
    """Checks that the transformer draws codes of the RQ-VAE; both may be `None`.

    Raises:
        `ValueError`: a model of another kind, or another code shape or codebook.
    """
    for name, model, method in (("rqvae", rqvae, "decode"), ("transformer", transformer, "condition_states")):
        if model is not None and not hasattr(model, method):
            raise ValueError(f"`{name}` must be a model of rq_hf with `{method}`, got {type(model).__name__}.")
    if rqvae is None or transformer is None:
        return
    ours, theirs = (tuple(model.config.code_shape) for model in (rqvae, transformer))
    if ours != theirs:
        raise ValueError(f"`transformer` must have the `code_shape` of `rqvae`, {ours}, got {theirs}.")
    ours, theirs = rqvae.codebook, transformer.codebook.weight
    if ours.is_meta or theirs.is_meta:  # offloaded
        return
    same_shape = ours.shape == theirs.shape
    # The transformer's codebook may have been rounded to bfloat16, which has 8 significant bits.
    if not same_shape or not torch.allclose(ours.to(theirs.device).float(), theirs.float(), rtol=2**-7, atol=1e-6):
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
