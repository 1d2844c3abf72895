# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trains an RQ-VAE (stage 1).

    accelerate launch scripts/train_rqvae.py [CONFIG.json] [--flag value ...]

Without a configuration it trains a small one on the emoji pictures of tests/fixtures.
"""

from pathlib import Path

from transformers.trainer_utils import set_seed

from rq_hf import RQVAEConfig
from rq_hf.training import (
    DataArguments,
    RQVAETrainer,
    RQVAETrainingArguments,
    initial_rqvae,
    load_dataset_splits,
    parse_arguments,
    resume_checkpoint,
    start_logging,
    training_pictures,
    write_card,
)

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "emoji-rqvae-fixture.json"


def main(argv=None):
    arguments = parse_arguments(RQVAEConfig, RQVAETrainingArguments, DataArguments, DEFAULT_CONFIG, __doc__, argv)
    training, data = arguments.training, arguments.data
    start_logging(training)
    checkpoint = resume_checkpoint(training.output_dir, training.resume_from_checkpoint)
    set_seed(training.seed)
    model = initial_rqvae(arguments)
    config = model.config
    splits = load_dataset_splits(data)
    datasets = {
        name: training_pictures(rows, data, training, config.image_size, config.num_channels, augment=name == "train")
        for name, rows in splits.items()
    }
    card = ("rqvae", arguments, config, model.num_parameters())
    write_card(*card)
    trainer = RQVAETrainer(
        model=model, args=training, train_dataset=datasets["train"], eval_dataset=datasets.get("validation")
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    trainer.evaluate_and_save()
    write_card(*card, history=trainer.state.log_history, seconds=trainer.stopwatch.seconds)
    trainer.finish()  # no process waits for the upload
    if trainer.is_world_process_zero() and training.push_to_hub:
        trainer.push_shared(Path(training.output_dir))


if __name__ == "__main__":
    main()
