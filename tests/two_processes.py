# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trains a tiny RQ-VAE and leaves what each process has after each checkpoint; `accelerate launch` starts it.

python tests/two_processes.py FOLDER BATCH_SIZE ADVERSARIAL_WEIGHT RULE STEPS [MISSING]

The last process lacks the MISSING last pictures, none by default.
"""

import sys
from pathlib import Path

import torch
from gloo_threads import gloo_threads
from transformers import TrainerCallback, set_seed

from rq_hf import RQVAEConfig, RQVAEModel
from rq_hf.training import RQVAETrainer, RQVAETrainingArguments


class Pictures(torch.utils.data.Dataset):
    """Nineteen smooth pictures of 16x16, which no batch size divides, or fewer."""

    def __init__(self, missing: int = 0):
        coarse = torch.rand(19, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 2 - 1
        self.pictures = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")[: 19 - missing]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pictures[index]}


class Leave(TrainerCallback):
    """Writes model, codebook and discriminator of this process beside the checkpoint."""

    trainer: RQVAETrainer

    def on_save(self, args, state, control, **kwargs):
        tensors = dict(self.trainer.model.state_dict())
        if self.trainer.discriminator is not None:
            discriminator = self.trainer.accelerator.unwrap_model(self.trainer.discriminator)
            tensors |= {f"discriminator.{name}": value for name, value in discriminator.named_parameters()}
        torch.save(tensors, Path(args.output_dir, f"step-{state.global_step}-process-{args.process_index}.pt"))


def main(folder: str, batch_size: str, adversarial_weight: str, rule: str, steps: str, missing: str = "0") -> None:
    set_seed(0)
    model = RQVAEModel(
        RQVAEConfig(
            image_size=16, base_channels=8, channel_multiplier=[1, 2, 2], num_res_blocks=1, attention_levels=[],
            latent_channels=8, norm_num_groups=4, codebook_size=24, codebook_dim=8, code_depth=2,
        )
    )  # fmt: skip
    arguments = RQVAETrainingArguments(
        output_dir=folder, use_cpu=True, report_to="none", seed=0, max_steps=int(steps), learning_rate=1e-3,
        per_device_train_batch_size=int(batch_size), logging_steps=1, save_steps=int(steps) // 2, disable_tqdm=True,
        perceptual_weight=0.0, adversarial_weight=float(adversarial_weight), codebook_update=rule,
    )  # fmt: skip
    leave = Leave()
    pictures = Pictures(int(missing) if arguments.process_index == arguments.world_size - 1 else 0)
    trainer = RQVAETrainer(model=model, args=arguments, train_dataset=pictures, callbacks=[leave])
    leave.trainer = trainer
    trainer.train()
    if trainer.is_world_process_zero():
        torch.save(trainer.state.log_history, Path(folder, "history.pt"))
    trainer.finish()
    assert not gloo_threads()  # one of them could abort the process while it exits


if __name__ == "__main__":
    main(*sys.argv[1:])
