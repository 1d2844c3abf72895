# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trains a tiny RQ-VAE with a discriminator, or a tiny RQ-Transformer, in forks that die on the way.

python tests/killed_training.py reads a JSON object a line: `model`, the arguments of `train_rqvae` or
`train_transformer`, and `processes`. It forks as many processes and answers with a line: a JSON list of what each
ended with, an exit status or, negative, a signal. The process that forks imports all there is to import, once.
"""

import gc
import json
import os
import resource
import signal
import sys
import traceback
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from transformers import TrainerCallback, set_seed
from transformers.utils import logging
from two_processes import Pictures

from rq_hf import (
    RQTransformerConfig,
    RQTransformerForImageGeneration,
    RQVAEConfig,
    RQVAEModel,
    train_caption_tokenizer,
)
from rq_hf.caption_tokenizer import BPEDropoutEncoder
from rq_hf.training import (
    CodeDataset,
    RQTransformerTrainer,
    RQTransformerTrainingArguments,
    RQVAETrainer,
    RQVAETrainingArguments,
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Writes(TrainerCallback):
    """Follows what the checkpoint of a step writes, moves and deletes, and dies in the middle of one such act.

    Args:
        folder: of the run; acts name paths inside it, as "write checkpoint-4/optimizer.pt".
        step: whose checkpoint it is.
        die_at: the act that is not finished; `None` survives all.
    """

    def __init__(self, folder: str, step: int, die_at: str | None):
        self.folder, self.step, self.die_at = folder, step, die_at
        self.acts: list[str] = []
        self.is_saving = False
        sys.addaudithook(self.hear)
        torch.save = partial(self.write, torch.save)
        safetensors.torch.serialize_file = partial(self.write, safetensors.torch.serialize_file)

    def on_step_end(self, args, state, control, **kwargs):
        self.is_saving = state.global_step == self.step

    def on_save(self, args, state, control, **kwargs):
        self.is_saving = False

    def is_last(self, act: str, path) -> bool:
        if not self.is_saving:
            return False
        self.acts.append(f"{act} {os.path.relpath(path, self.folder) if os.path.isabs(path) else path}")
        return self.acts[-1] == self.die_at

    def hear(self, event: str, arguments: tuple) -> None:
        """Follows what Python itself does."""
        if event == "open" and arguments[2] & os.O_CREAT:
            if self.is_last("open", arguments[0]):
                self.is_saving = False
                os.close(os.open(arguments[0], os.O_WRONLY | os.O_CREAT))  # begun, and empty
                die()
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir") and self.is_last(event[3:], arguments[0]):
            die()

    def write(self, writer, content, path, *args, **kwargs) -> None:
        """Follows the writers that are no Python; the last file stays half written."""
        is_last = self.is_last("write", path)
        writer(content, path, *args, **kwargs)
        if is_last:
            os.truncate(path, os.path.getsize(path) // 2)
            die()


class DieAfter(TrainerCallback):
    """Dies after a step, before its checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            die()


RQVAE = RQVAEConfig(
    image_size=16, base_channels=8, channel_multiplier=[1, 2], num_res_blocks=1, attention_levels=[],
    latent_channels=8, norm_num_groups=4, codebook_size=24, codebook_dim=8, code_depth=2,
)  # fmt: skip


def train_rqvae(
    folder: str,
    resume: str | bool | None = None,
    die_after: int | None = None,
    watch: int | None = None,
    die_at: str | None = None,
    dying_process: int = 0,
    largest_file: int | None = None,
) -> None:
    """Trains six steps with a checkpoint every second, of which one is kept.

    Args:
        folder: of the run.
        resume: as in [`resume_checkpoint`].
        die_after: step after which the process kills itself.
        watch: step whose checkpoint [`Writes`] follows; the acts are left in `folder`.acts.json.
        die_at: see there.
        dying_process: the process that these are for, where there are several.
        largest_file: bytes that no file may exceed.
    """
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    set_seed(0)
    model = RQVAEModel(RQVAE)
    arguments = RQVAETrainingArguments(
        output_dir=folder, use_cpu=True, report_to="none", seed=0, max_steps=6, learning_rate=1e-3, warmup_steps=2,
        per_device_train_batch_size=4, logging_steps=1, save_steps=2, save_total_limit=1, disable_tqdm=True,
        perceptual_weight=0.0, ema_decay=0.9,
    )  # fmt: skip
    callbacks: list[TrainerCallback] = []
    if arguments.process_index == dying_process:
        callbacks += [DieAfter(die_after)] if die_after is not None else []
        callbacks += [Writes(folder, watch, die_at)] if watch is not None else []
    trainer = RQVAETrainer(model=model, args=arguments, train_dataset=Pictures(), callbacks=callbacks)
    try:
        trainer.train(resume_from_checkpoint=resume)
    finally:  # what went wrong is to be told in a file, too
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if watch is not None and arguments.process_index == dying_process:
        Path(f"{folder}.acts.json").write_text(json.dumps(callbacks[-1].acts))


def train_transformer(
    folder: str, resume: str | bool | None = None, die_after: int | None = None, workers: int = 0
) -> None:
    """Trains six steps, all random choices on, with a checkpoint every second.

    Args:
        folder: of the run.
        resume: as in [`resume_checkpoint`].
        die_after: step after which the process kills itself.
        workers: of the data loader.
    """
    set_seed(0)
    pictures = Pictures(missing=3)
    captions = [f"a {name}, {style} style" for style in ("noto", "3d") for name in "apple heart pizza rocket".split()]
    tokenizer = train_caption_tokenizer(captions, vocab_size=80, max_length=8)
    rqvae = RQVAEModel(RQVAE)
    config = RQTransformerConfig.from_rqvae_config(
        rqvae.config, vocab_size=80, condition_length=8, pad_token_id=0, null_condition_ids=[0] * 8, hidden_size=16,
        num_spatial_layers=1, num_depth_layers=1, num_attention_heads=2, dropout=0.1,
    )  # fmt: skip
    model = RQTransformerForImageGeneration(config)
    model.set_codebook(rqvae.codebook)
    arguments = RQTransformerTrainingArguments(
        output_dir=folder, use_cpu=True, report_to="none", seed=0, max_steps=6, learning_rate=1e-2, warmup_steps=2,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, logging_steps=1, save_steps=2,
        disable_tqdm=True, code_temperature=5.0, ema_decay=0.9, dataloader_num_workers=workers,
    )  # fmt: skip
    data = CodeDataset(
        pictures, 2 * captions, encoder=BPEDropoutEncoder(tokenizer), bpe_dropout=0.5, condition_dropout=0.2,
        null_condition_ids=config.null_condition_ids,
    )  # fmt: skip
    callbacks = [DieAfter(die_after)] if die_after is not None else []
    trainer = RQTransformerTrainer(model=model, args=arguments, rqvae=rqvae, train_dataset=data, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)


TRAININGS = {"rqvae": train_rqvae, "transformer": train_transformer}


def fork(rank: int, processes: int, port: int, job: dict) -> int:
    """Starts one process of a training; its errors go to `folder`.RANK.log."""
    process = os.fork()
    if process > 0:
        return process
    status = 1
    try:
        log = os.open(f"{job['folder']}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1), os.dup2(log, 2)
        if processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        TRAININGS[job.pop("model", "rqvae")](**job)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    gc.freeze()  # the forks' collections need not look at what is imported
    for line in sys.stdin:
        job = json.loads(line)
        processes, port = job.pop("processes", 1), job.pop("port", 0)
        started = [fork(rank, processes, port, job) for rank in range(processes)]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]), flush=True)


if __name__ == "__main__":
    main()
