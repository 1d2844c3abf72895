# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Tiny trainings of both stages, in this process or in forks that may be killed.

As a script it says "ready" and reads jobs from stdin, one JSON object a line: the arguments of [`run`], `processes`
and `kill_at`, a step with the seconds after the begin of its checkpoint. It forks the processes of a job and answers
with a JSON list of their exit codes, negative for a signal.
"""

import functools
import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import Dataset
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging

from rq_hf.models import (
    ContextualRQTransformerForImageGeneration,
    RQTransformerForImageGeneration,
    RQVAEConfig,
    RQVAEModel,
)
from rq_hf.training import (
    RQTrainer,
    RQTransformerTrainer,
    RQTransformerTrainingArguments,
    RQVAETrainer,
    RQVAETrainingArguments,
)

RQVAE_FIELDS = dict(
    image_size=16, base_channels=8, channel_multiplier=(1, 2, 2), num_res_blocks=1, attention_levels=(2,),
    latent_channels=8, norm_num_groups=4, codebook_size=24, codebook_dim=8, code_depth=2,
)  # fmt: skip
TRANSFORMER_FIELDS = dict(
    vocab_size=20, condition_length=4, null_condition_ids=(0,) * 4, hidden_size=16, num_spatial_layers=1,
    num_depth_layers=1, num_attention_heads=2,
)  # fmt: skip
COMMON = dict(
    use_cpu=True, report_to="none", disable_tqdm=True, seed=3, max_steps=6, per_device_train_batch_size=4,
    per_device_eval_batch_size=4, learning_rate=1e-3, weight_decay=0.0, logging_steps=1, save_strategy="no",
)  # fmt: skip


assert_equal = functools.partial(torch.testing.assert_close, rtol=0, atol=0)


class Samples(Dataset):
    """Smooth pictures of 16x16 pixels with random conditions; 19 of them, which no batch size divides."""

    def __init__(self, count: int = 19, num_channels: int = 3):
        generator = torch.Generator().manual_seed(1)
        coarse = torch.rand(count, num_channels, 5, 5, generator=generator) * 2 - 1
        self.pictures = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear", align_corners=True)
        self.input_ids = torch.randint(1, 20, (count, 4), generator=generator)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pictures[index], "input_ids": self.input_ids[index]}


def make_rqvae(**fields) -> RQVAEModel:
    """An RQ-VAE whose codebook fits its latents."""
    set_seed(0)
    model = RQVAEModel(RQVAEConfig(**RQVAE_FIELDS | fields))
    with torch.no_grad():
        latents = model.encode_latents(Samples(num_channels=model.config.num_channels).pictures)
        for _ in range(8):
            model.quantizer(latents, codebook_update="per_step")
    return model


def make_models(
    code_depth: int = 2, model_class: type = RQTransformerForImageGeneration, **fields
) -> tuple[RQVAEModel, PreTrainedModel]:
    """Both models; the fields are the transformer's."""
    rqvae = make_rqvae(code_depth=code_depth).eval()
    config = model_class.config_class.from_rqvae_config(rqvae.config, **TRANSFORMER_FIELDS | fields)
    transformer = model_class(config)
    transformer.set_codebook(rqvae.codebook)
    return rqvae, transformer


def rqvae_trainer(folder: str | Path, model: dict[str, Any] | None = None, **training) -> RQVAETrainer:
    """Stage 1 on [`Samples`], without a perceptual loss unless asked for."""
    rqvae = make_rqvae(**model or {})  # before the arguments connect processes, which would fit one codebook together
    arguments = RQVAETrainingArguments(output_dir=str(folder), **COMMON | {"perceptual_weight": 0.0} | training)
    data = Samples(num_channels=rqvae.config.num_channels)
    return RQVAETrainer(rqvae, arguments, train_dataset=data, eval_dataset=data)


def rqt_trainer(folder: str | Path, model: dict[str, Any] | None = None, **training) -> RQTransformerTrainer:
    """Stage 2 on [`Samples`] with the RQ-VAE of [`make_rqvae`]."""
    rqvae, transformer = make_models(**model or {})
    arguments = RQTransformerTrainingArguments(
        output_dir=str(folder), **COMMON | {"code_temperature": 1.0, "eval_pictures": 0} | training
    )
    data = Samples()
    return RQTransformerTrainer(transformer, arguments, rqvae=rqvae, train_dataset=data, eval_dataset=data)


def contextual_trainer(folder: str | Path, **training) -> RQTransformerTrainer:
    """Stage 2 with a contextual transformer."""
    return rqt_trainer(folder, {"model_class": ContextualRQTransformerForImageGeneration}, **training)


def logged(trainer: RQTrainer, name: str) -> list[float]:
    """The values of a figure in the order of their logs."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def train_sharded(folder: str) -> None:
    """Four steps of the transformer on a batch; several processes shard the weights (FSDP2) and split the batch."""
    processes, losses, data = int(os.environ.get("WORLD_SIZE", 1)), [], Samples()
    rqvae, model = make_models(dropout=0.0)
    codes, residuals = rqvae.quantize(rqvae.encode_latents(data.pictures[:4]).detach())
    rows = slice(0, 4)
    if processes > 1:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (processes,))
        modules = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
        for module in [*modules, model.depth_decoder.head, model]:
            fully_shard(module, mesh=mesh)
        rows = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    for _ in range(4):
        labels = {"residuals": residuals[rows], "label_temperature": 0.5}
        loss = model(data.input_ids[:4][rows], codes[rows], **labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    torch.save(weights | {"losses": torch.stack(losses)}, f"{folder}.{os.environ.get('RANK', 0)}.pt")


def run(stage: str, folder: str, resume: str | None = None, **options) -> None:
    """Trains; every process leaves its weights in `folder`.RANK.pt."""
    if stage == "sharded":
        return train_sharded(folder)
    trainer = {"rqvae": rqvae_trainer, "rqt": rqt_trainer}[stage](folder, **options)
    trainer.train(resume)
    weights = dict(trainer.model.state_dict()) | {"losses": torch.tensor(logged(trainer, "loss"))}
    if getattr(trainer, "discriminator", None) is not None:
        discriminator = trainer.accelerator.unwrap_model(trainer.discriminator)
        weights |= {f"discriminator.{name}": value for name, value in discriminator.named_parameters()}
    if trainer.average is not None:
        weights |= {f"average.{index}": value for index, value in enumerate(trainer.average.shadow_params)}
    torch.save(weights, f"{folder}.{trainer.args.process_index}.pt")


def work(rank: int, processes: int, port: int, job: dict[str, Any]) -> None:
    """One process of a training; its errors go to `folder`.RANK.log."""
    log = os.open(f"{job['folder']}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run(**job)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        processes, kill_at, port = job.pop("processes", 1), job.pop("kill_at", None), free_port()
        jobs = [(rank, processes, port, job) for rank in range(processes)]
        started = [multiprocessing.get_context("fork").Process(target=work, args=each) for each in jobs]
        for process in started:
            process.start()
        if kill_at is not None:
            step, seconds = kill_at
            while not Path(job["folder"], f"checkpoint-{step}").exists() and started[0].is_alive():
                time.sleep(1e-3)
            time.sleep(seconds)
            for process in started:
                process.kill()
        for process in started:
            process.join()
        print(json.dumps([process.exitcode for process in started]), flush=True)


if __name__ == "__main__":
    main()
