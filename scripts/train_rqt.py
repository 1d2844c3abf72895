# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trains an RQ-Transformer (stage 2) on the codes of a trained RQ-VAE, and assembles the pipeline.

    accelerate launch scripts/train_rqt.py [CONFIG.json] [--flag value ...]

Without a configuration it trains a small one on the emoji pictures of tests/fixtures with the shipped RQ-VAE.
Captions (`--caption_column`), class labels (`--label_column`) or neither decide what the model is conditioned on.

`--model_name_or_path` fine-tunes a model; with `--lora_rank` only adapters, which are saved in the folder `adapter` of
`--output_dir`, beside the pipeline into which they are merged. `--push_to_hub` uploads the pipeline, or with
`--lora_rank` the adapter alone, at every save (`--hub_strategy`) and at the end.
"""

from pathlib import Path

import torch
from transformers.trainer_utils import set_seed

from rq_hf import RQImageGenerationPipeline, RQTransformerConfig
from rq_hf.training import (
    CodeDataArguments,
    RQTransformerTrainer,
    RQTransformerTrainingArguments,
    code_datasets,
    initial_transformer,
    load_dataset_splits,
    load_rqvae,
    load_tokenizer,
    parse_arguments,
    resume_checkpoint,
    save_pipeline,
    start_logging,
    transformer_config,
    write_card,
)
from rq_hf.training.lora import ADAPTER_FOLDER, add_lora, save_adapter

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "emoji-rqt-fixture.json"


def main(argv=None):
    arguments = parse_arguments(
        RQTransformerConfig, RQTransformerTrainingArguments, CodeDataArguments, DEFAULT_CONFIG, __doc__, argv
    )
    training, data = arguments.training, arguments.data
    start_logging(training)
    checkpoint = resume_checkpoint(training.output_dir, training.resume_from_checkpoint)
    rqvae = load_rqvae(data)
    tokenizer = load_tokenizer(data)
    splits = load_dataset_splits(data)
    config = transformer_config(arguments, rqvae, tokenizer, splits["train"])
    set_seed(training.seed)
    model, new_ids = initial_transformer(arguments, config, rqvae, tokenizer)
    model.set_attn_implementation(training.attn_implementation)
    for name, value in arguments.card.get("sampling", {}).items():
        setattr(model.generation_config, name, value)
    model.check_sampling()
    datasets = code_datasets(arguments, splits, rqvae, config, tokenizer)
    card = (
        "pipeline",
        arguments,
        {"rqvae": rqvae.config, "transformer": config},
        {"rqvae": rqvae.num_parameters(), "transformer": model.num_parameters()},
    )
    write_card(*card)
    if training.lora_rank is not None:
        model = add_lora(model, training, new_ids)
    dtype = getattr(torch, training.save_dtype) if training.save_dtype is not None else None

    def write_shared(transformer: torch.nn.Module) -> Path:
        """The pipeline, or the adapter alone, in a folder that may be pushed."""
        if training.lora_rank is not None:
            save_adapter(transformer, Path(training.output_dir, ADAPTER_FOLDER), arguments)
            return Path(training.output_dir, ADAPTER_FOLDER)
        save_pipeline(RQImageGenerationPipeline(trainer.rqvae, transformer, tokenizer), training.output_dir, dtype)
        return Path(training.output_dir)

    trainer = RQTransformerTrainer(
        model=model,
        args=training,
        rqvae=rqvae,
        train_dataset=datasets["train"],
        eval_dataset=datasets.get("validation"),
    )
    trainer.write_shared = write_shared
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_state()
    trainer.evaluate_and_save()
    transformer = trainer.whole_model()
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        with trainer.averaged_weights():
            shared_folder = write_shared(transformer)
            if training.lora_rank is not None:
                merged = transformer.merge_and_unload()
                save_pipeline(RQImageGenerationPipeline(trainer.rqvae, merged, tokenizer), training.output_dir, dtype)
        write_card(*card, history=trainer.state.log_history, seconds=trainer.stopwatch.seconds)
    trainer.finish()  # no process waits for the upload
    if trainer.is_world_process_zero() and training.push_to_hub:
        trainer.push_shared(shared_folder)


if __name__ == "__main__":
    main()
