# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Training of the RQ-Transformer (stage 2) with stochastic codes and soft labels (section 3.2.3).

Symbols: B pictures, S condition tokens, H x W positions, D code depth, n_z codebook width.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.utils import cached_file
from transformers.utils.type_validators import interval, probability

from ..images import image_grid, to_pil
from ..models.configuration_rq_transformer import RQTransformerConfig
from ..models.depth_decoder import IGNORED
from ..models.modeling_rqvae import RQVAEModel
from ..models.residual_quantizer import one_per_depth
from ..models.sampling import RQGenerationConfig, generators_of_pictures, seeded_generator
from ..pipelines.loading import load_component
from ..pipelines.pipeline_rq_image_generation import RQImageGenerationPipeline, check_components
from ..pipelines.text_encoding import embed_ids, load_text_encoder
from .arguments import CodeDataArguments, Recipe, load_made, model_kinds, recipe_names, setting
from .checkpoints import resume_checkpoint
from .conditions import PictureCollator, code_datasets, condition_config, load_tokenizer
from .data import load_splits
from .publishing import publish_pipeline
from .trainer import RQTrainer, RQTrainingArguments


@dataclass
class RQTransformerTrainingArguments(RQTrainingArguments):
    """`TrainingArguments` of stage 2."""

    model_type: str = setting(
        "rq_transformer", "Kind of the transformer; a contextual_rq_transformer may start from an rq_transformer."
    )
    code_temperature: list[float] | float = setting(0.5, "tau of Eq. 15, or one per depth.")
    stochastic_codes: bool = setting(True, "Draw the training codes from Q_tau (Eq. 15).")
    soft_labels: bool = setting(True, "Train on Q_tau (Eq. 15) instead of the codes.")
    self_correction: float = setting(0.0, "Share of a batch whose codes the model draws itself.", probability)
    self_correction_passes: int = setting(1, "Largest number of times that it draws them anew.", interval(min=1))
    self_correction_temperature: float = setting(1.0, "Temperature of these draws.", interval(min=0, exclude_min=True))
    self_correction_top_k: int | None = setting(None, "Likeliest codes that are drawn from.", interval(min=1))
    self_correction_top_p: float | None = setting(
        None, "Probability of those drawn from.", interval(min=0, max=1, exclude_min=True)
    )
    condition_dropout: float = setting(0.0, "Share of the samples without a condition, for guidance.", probability)
    bpe_dropout: float = setting(0.1, "BPE dropout of training captions.", probability)
    cache_latents: bool = setting(False, "Encode each picture once, without augmentation.")
    eval_pictures: int = setting(8, "Pictures that each evaluation draws.", interval(min=0))
    attn_implementation: Literal["sdpa", "eager"] = setting(
        "sdpa", "Attention while training; 'eager' is faster for small models on a CPU."
    )
    save_dtype: Literal["float16", "bfloat16", None] = setting(
        None, "dtype of the final pipeline's files, 'float16' or 'bfloat16'; they still load in fp32."
    )
    lora_rank: int | None = setting(None, "Train only LoRA adapters of this rank.", interval(min=1))
    lora_alpha: int = setting(8, "LoRA's output is scaled by lora_alpha / lora_rank.", interval(min=1))
    prior_loss_weight: float = setting(30.0, "Weight of the loss of `prior_captions`.", interval(min=0))
    prior_batch_size: int = setting(16, "Prior captions in a step of each process.", interval(min=1))

    def __post_init__(self):
        super().__post_init__()
        if self.model_type not in (kinds := model_kinds(RQTransformerConfig)):
            raise ValueError(f"`model_type` must be one of {', '.join(kinds)}, got {self.model_type!r:.80}.")
        if not isinstance(self.code_temperature, list):
            self.code_temperature = [self.code_temperature]
        if self.self_correction > 0 and not self.soft_labels:
            raise ValueError(f"`self_correction` must be 0 without `soft_labels`, got {self.self_correction}.")
        if self.lora_rank is not None and self.model_name_or_path is None:
            raise ValueError("`model_name_or_path` must be given with `lora_rank`, got None.")

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The class of the transformer."""
        return MODEL_MAPPING[model_kinds(RQTransformerConfig)[self.model_type]]


class RQTransformerTrainer(RQTrainer):
    """
    Trains an [`RQTransformerForImageGeneration`] on the codes of a frozen RQ-VAE.

    It logs the losses of image, caption and each depth. Each evaluation draws pictures with fixed seeds and the
    model's `generation_config`, and writes them to `pictures/step-N.png` in the output folder. Sharded models draw
    none.

    With `prior`, a step also compares an adapter with its base on what the base drew for old captions, by the
    cross-entropy of the two distributions of each code. This is the prior preservation of DreamBooth (Ruiz et al.,
    2022, https://arxiv.org/abs/2208.12242) by distillation.

    Args:
        model ([`RQTransformerForImageGeneration`]):
            The model to train, or a `PeftModel` of it. Its codebook must be that of `rqvae`.
        rqvae ([`RQVAEModel`]): the frozen first stage.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): decodes the captions below the pictures.
        text_encoder (`PreTrainedModel`, *optional*): the frozen text encoder, for a model with `condition_dim`.
        prior (`dict[str, torch.Tensor]`, *optional*): what the base of a `PeftModel` drew, of `draw_prior`.
        kwargs: of `Trainer`. Batches have `input_ids` `(B, S)` or `prompt_embeds` `(B, S, condition_dim)`, and
            `pixel_values` or `latents` `(B, H, W, n_z)`. For a plain `datasets.Dataset`, pass a [`PictureCollator`].
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: RQTransformerTrainingArguments,
        *,
        rqvae: RQVAEModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder: PreTrainedModel | None = None,
        prior: dict[str, torch.Tensor] | None = None,
        **kwargs,
    ):
        check_components(rqvae, model)
        if args.condition_dropout > 0 and isinstance(kwargs.get("data_collator"), PictureCollator):
            raise ValueError("`condition_dropout` must be 0 with a `PictureCollator`, which drops no conditions.")
        temperatures = args.code_temperature
        self.code_temperature = temperatures[0] if len(temperatures) == 1 else temperatures
        depth = rqvae.config.code_depth
        one_per_depth("code_temperature", self.code_temperature, depth, lambda tau: tau > 0, "greater than 0")
        if depth == 1:  # this layer is unused then, and DDP would wait for its gradient
            model.depth_decoder.projection.requires_grad_(False)
        super().__init__(model, args, **kwargs)
        self.rqvae, self.tokenizer, self.text_encoder, self.prior = rqvae, tokenizer, text_encoder, prior
        for frozen in (rqvae, text_encoder):
            if frozen is not None:
                frozen.to(args.device).eval().requires_grad_(False)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Image and caption loss of a batch (Eq. 14)."""
        is_training, num_rows = self.model.training, len(next(iter(inputs.values())))
        if not is_training:
            num_rows = self.num_real_rows(num_rows)
            inputs = {name: values[: max(num_rows, 1)] for name, values in inputs.items()}
        codes, residuals = self.training_codes(inputs)
        if self.args.soft_labels:
            labels = {"residuals": residuals, "label_temperature": self.code_temperature}
        else:
            labels = {"labels": codes, "output_logits": False}
        generator = self.generator if is_training else generators_of_pictures(self.args.seed, codes)
        further = self.model.training_inputs(codes, generator)
        outputs = model(codes=codes, **self.condition(inputs), **further, **labels)

        parts, text_loss = {"image_loss": outputs.image_loss}, {}
        if outputs.text_loss is not None:
            text_loss = {"text_loss": outputs.text_loss}
        for depth, depth_loss in enumerate(outputs.depth_losses, start=1):
            parts[f"image_loss_depth_{depth}"] = depth_loss
        loss = outputs.loss
        num_texts = num_rows
        if not is_training and num_rows > 0:  # means over positions and tokens depend on no batch
            num_rows = int(further.get("mask", torch.ones(codes.shape[:3])).sum())
            if text_loss:
                pad = self.model.config.pad_token_id
                num_texts = int((inputs["input_ids"][:, 1:] != (IGNORED if pad is None else pad)).sum())
        if self.prior is not None and self.model.training:
            parts["prior_loss"] = self.prior_loss(model)
            loss = loss + self.args.prior_loss_weight * parts["prior_loss"]
        self.record(model, num_rows, **parts)
        self.record(model, num_texts, **text_loss)
        return (loss, {"loss": loss}) if return_outputs else loss

    def prior_loss(self, model) -> torch.Tensor:
        """How far an adapter is from its base on pictures that the base drew: the mean cross-entropy of a code."""
        generator, count = self.generator, len(self.prior["codes"])
        rows = torch.randint(count, (self.args.prior_batch_size,), generator=generator, device=generator.device)
        inputs = {name: values[rows.to(values.device)] for name, values in self.prior.items()}
        inputs |= self.model.training_inputs(inputs["codes"], generator)
        self.model.eval()  # the base is compared without its dropout
        with torch.no_grad(), self.model.disable_adapter():
            labels = self.model(**inputs).logits.float().softmax(-1)
        self.model.train()
        return model(**inputs, labels=labels, output_logits=False).image_loss

    def condition(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The argument of the model that holds the conditions: ids, or vectors, which may be cached."""
        if self.text_encoder is None or "prompt_embeds" in inputs:
            return {name: inputs[name] for name in ("input_ids", "prompt_embeds") if name in inputs}
        return {"prompt_embeds": embed_ids(inputs["input_ids"].to(self.args.device), self.text_encoder)}

    @torch.no_grad()
    def training_codes(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes `(B, H, W, D)` that the model reads, and the residuals `(B, H, W, D, n_z)` of its soft labels.

        Evaluations use the nearest codes (Eq. 3). Training may draw them from Q_tau (Eq. 15). With `self_correction`
        the model draws the codes of a batch's first pictures.
        """
        args, quantizer = self.args, self.rqvae.quantizer
        latents = inputs.get("latents")
        if latents is None:
            with self.accelerator.autocast():
                latents = self.rqvae.encode_latents(inputs["pixel_values"])
        if not self.model.training:
            return quantizer.quantize(latents)
        codes, residuals = quantizer.quantize(latents, self.code_temperature, args.stochastic_codes, self.generator)
        count = math.ceil(args.self_correction * len(codes))
        if count > 0:
            condition = {name: values[:count] for name, values in self.condition(inputs).items()}
            own = self.redrawn_codes(condition, codes[:count])
            codes = torch.cat([own, codes[count:]])
            residuals = torch.cat([quantizer.residuals(latents[:count], own), residuals[count:]])
        return codes, residuals

    def redrawn_codes(self, condition: dict[str, torch.Tensor], codes: torch.Tensor) -> torch.Tensor:
        """Codes `(B, H, W, D)` that the model draws in place of the given ones.

        The first pass redraws all pictures. Each further pass redraws fewer of them: with three passes, one third of
        the pictures is redrawn three times, one third twice and one third once.
        """
        args, passes = self.args, self.args.self_correction_passes
        settings = RQGenerationConfig(
            temperature=args.self_correction_temperature, top_k=args.self_correction_top_k,
            top_p=args.self_correction_top_p,
        )  # fmt: skip
        self.model.eval()
        for number in range(passes):
            rows = math.ceil(len(codes) * (passes - number) / passes)
            given = {name: values[:rows] for name, values in condition.items()}
            with self.accelerator.autocast():
                own = self.model.redraw_codes(codes[:rows], settings, self.generator, **given)
            codes = torch.cat([own, codes[rows:]])
        self.model.train()
        return codes

    def end_evaluation(self, dataset: Dataset, means: dict[str, float]) -> dict[str, float]:
        if self.args.eval_pictures > 0 and not self.is_sharded and self.is_world_process_zero():
            self.save_sheet(self.draw_pictures(dataset))
        weight = self.model.config.text_loss_weight if "text_loss" in means else 0.0
        return {"loss": (1 - weight) * means["image_loss"] + weight * means.get("text_loss", 0.0)}

    def draw_pictures(self, dataset: Dataset) -> Image.Image:
        """Draws pictures of conditions that are spread over a data set."""
        rows = torch.linspace(0, len(dataset) - 1, min(self.args.eval_pictures, len(dataset))).long().tolist()
        inputs = self.data_collator([dataset[row] for row in rows])
        condition = {name: values.to(self.args.device) for name, values in self.condition(inputs).items()}
        generators = [seeded_generator(self.args.seed, index) for index in range(len(rows))]
        codes = self.model.generate(**condition, generator=generators)
        captions, names, input_ids = None, self.model.config.id2label, inputs.get("input_ids")
        if self.tokenizer is not None and input_ids is not None:
            captions = [self.tokenizer.decode(ids[ids >= 0], skip_special_tokens=True) for ids in input_ids]
        elif names:
            captions = [names.get(index, str(index)) for index in input_ids[:, 0].tolist()]
        return image_grid(to_pil(self.rqvae.decode(codes)), captions, columns=4)


def load_first_stage(recipe: Recipe) -> RQVAEModel:
    """Loads the RQ-VAE of a recipe, or that of the pipeline to fine-tune."""
    name, pipeline = recipe.data.rqvae_name_or_path, recipe.training.model_name_or_path
    made = Path(name or "").name  # a folder may have the name of its recipe
    command = ["rq-hf", "train-rqvae", made if made in recipe_names() else "small-rqvae-64"]
    command += ["--dataset_name", str(recipe.data.dataset_name)]
    load = partial(load_component, RQVAEModel, component="rqvae", dtype=torch.float32)
    return load_made(load, "rqvae_name_or_path", name, pipeline, *command)


def load_encoder(data: CodeDataArguments, pipeline: str | None) -> PreTrainedModel | None:
    """Loads the text encoder of a recipe, or that of the pipeline to fine-tune."""
    if data.text_encoder is not None:
        return load_text_encoder(data.text_encoder, dtype=torch.float32)
    if pipeline is None or data.caption_column is None:
        return None
    with suppress(OSError):
        cached_file(pipeline, "text_encoder/config.json")  # with `subfolder` a missing file is no error
        return load_text_encoder(pipeline, subfolder="text_encoder", dtype=torch.float32)
    return None


def starting_transformer(
    recipe: Recipe,
    rqvae: RQVAEModel,
    tokenizer: PreTrainedTokenizerBase | None,
    splits: dict[str, Dataset],
    text_encoder: PreTrainedModel | None = None,
) -> PreTrainedModel:
    """The transformer that a training starts from: the pretrained one of the recipe, or a new one for the data."""
    training = recipe.training
    if training.model_name_or_path is not None:
        options = {"dtype": torch.float32, **recipe.model}
        model = load_component(AutoModel, training.model_name_or_path, "transformer", **options)
        if hasattr(training.model_class, "from_autoregressive") and not isinstance(model, training.model_class):
            model = training.model_class.from_autoregressive(model)
    else:
        labels = recipe.model.get("id2label")
        fields = condition_config(recipe.data, training, tokenizer, splits, labels, text_encoder)
        sizes = [each["vocab_size"] for each in (fields, recipe.model) if "vocab_size" in each]
        fields = fields | recipe.model | ({"vocab_size": max(sizes)} if sizes else {})  # the data may need more
        config = training.model_class.config_class.from_rqvae_config(rqvae.config, **fields)
        model = AutoModel.from_config(config)
        model.set_codebook(rqvae.codebook)
    model.set_attn_implementation(training.attn_implementation)
    model.generation_config = model.settings_of_call(**recipe.sampling)
    if recipe.sampling.get("guidance_scale", 1.0) != 1.0:
        model.null_embeds()  # refuses guidance that was not trained
    return model


def read_captions(path: str) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        captions = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`prior_captions` must be a text file, got {path!r}: {error}.") from error
    if not captions:
        raise ValueError(f"`prior_captions` must hold a caption a line, got the file {path!r} without any.")
    return captions


def train_rq_transformer(recipe: Recipe) -> RQTransformerTrainer:
    """Trains an RQ-Transformer by a recipe and saves the pipeline, with a card, to the output folder."""
    training, data = recipe.training, recipe.data
    if training.model_name_or_path is None:  # refuses bad fields before data are read, which give these three
        from_data = {"code_shape": (1, 1, 1), "vocab_size": 2**31}
        training.model_class.config_class(**from_data | recipe.model | {"null_condition_ids": None})
    if data.prior_captions is not None and (training.lora_rank is None or data.caption_column is None):
        raise ValueError("`prior_captions` needs `lora_rank` and `caption_column`.")
    prior_captions = None if data.prior_captions is None else read_captions(data.prior_captions)
    checkpoint = resume_checkpoint(training.output_dir, training.resume_from_checkpoint)
    set_seed(training.seed)
    rqvae = load_first_stage(recipe)
    text_encoder = load_encoder(data, training.model_name_or_path)
    tokenizer = load_tokenizer(data, training.model_name_or_path, has_encoder=text_encoder is not None)
    splits = load_splits(data)
    model = starting_transformer(recipe, rqvae, tokenizer, splits, text_encoder)
    datasets = code_datasets(recipe, splits, rqvae, model.config, tokenizer, text_encoder)
    prior = None
    if training.lora_rank is not None:
        from .lora import add_lora, draw_prior  # PEFT is optional

        if prior_captions is not None:
            pipe = RQImageGenerationPipeline(rqvae, model, tokenizer, text_encoder).to(training.device)
            prior = draw_prior(pipe, prior_captions, training.seed)
        model = add_lora(model, training.lora_rank, training.lora_alpha)

    components = {"rqvae": rqvae, "tokenizer": tokenizer, "text_encoder": text_encoder}
    sets = {"train_dataset": datasets["train"], "eval_dataset": datasets.get("validation")}
    trainer = RQTransformerTrainer(model, training, **components, **sets, prior=prior)
    trainer.train(checkpoint)
    publish_pipeline(trainer, recipe, trainer.evaluate_and_save())
    trainer.accelerator.end_training()
    return trainer
