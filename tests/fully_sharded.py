# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trains tiny models: in one process as they are, in several on the CPU (gloo) wrapped with `fully_shard`.

python tests/fully_sharded.py FOLDER PROCESS PROCESSES

Every process leaves what it ended with in FOLDER/PROCESS.pt, and the first one the gathered transformer in
FOLDER/transformer.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from two_processes import Pictures

from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration, RQVAEConfig, RQVAEModel
from rq_hf.training import RQTransformerTrainer, RQTransformerTrainingArguments

STEPS = 4
RQVAE_FIELDS = dict(
    image_size=16, base_channels=8, channel_multiplier=[1, 2], num_res_blocks=1, attention_levels=[1],
    latent_channels=8, norm_num_groups=4, codebook_size=24, codebook_dim=8, code_depth=2,
)  # fmt: skip


def wrap(model: PreTrainedModel, *whole: torch.nn.Module) -> None:
    """Shards what the model says belongs together, the modules of `whole`, and what is left."""
    if not dist.is_initialized():
        return
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    blocks = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    for module in [*blocks, *whole, model]:
        fully_shard(module, mesh=mesh)


def share(batch: torch.Tensor) -> torch.Tensor:
    """This process's part of a batch."""
    return batch.chunk(dist.get_world_size())[dist.get_rank()] if dist.is_initialized() else batch


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> torch.Tensor:
    """One step; returns the loss of the whole batch."""
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss = loss.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    return loss


def ended(model: PreTrainedModel, losses: list[torch.Tensor]) -> dict:
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    return {
        "losses": torch.stack(losses),
        "sharded": {name for name, tensor in (parameters | buffers).items() if isinstance(tensor, DTensor)},
        "parameters": {
            name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
            for name, tensor in parameters.items()
        },
        "buffers": buffers,
    }


def train_rqvae() -> dict:
    torch.manual_seed(0)
    model = RQVAEModel(RQVAEConfig(**RQVAE_FIELDS))
    wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = Pictures().pictures.split(8)
    losses = []
    for index in range(STEPS):
        outputs = model(share(batches[index % 2]), codebook_update="per_step")
        losses.append(step(optimizer, outputs.loss))
    return ended(model, losses)


def rqvae_of(transformer: RQTransformerForImageGeneration) -> RQVAEModel:
    """Whose codes that of [`train_transformer`] draws."""
    rqvae = RQVAEModel(RQVAEConfig(**RQVAE_FIELDS | {
        "image_size": 4, "attention_levels": [], "codebook_size": 16, "code_depth": 3,
    })).eval()  # fmt: skip
    rqvae.codebook.copy_(transformer.codebook.weight)
    return rqvae


def save_gathered(model: PreTrainedModel, folder: Path) -> None:
    """Saves what a trainer makes of the shards, as train_rqt.py does at its end."""
    arguments = RQTransformerTrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none")
    trainer = RQTransformerTrainer(model=model, args=arguments, rqvae=rqvae_of(model))
    trainer._model_class = RQTransformerForImageGeneration  # a trainer sees a model before it is sharded
    whole = trainer.whole_model()
    assert (whole is not None) == (dist.get_rank() == 0)
    if whole is not None:
        whole.save_pretrained(folder)


def train_transformer(folder: Path | None = None) -> dict:
    """Trains it; saves it in `folder`, if there is one."""
    torch.manual_seed(0)
    model = RQTransformerForImageGeneration(
        RQTransformerConfig(
            vocab_size=60, condition_length=3, code_shape=[2, 2, 3], codebook_size=16, codebook_dim=8, hidden_size=16,
            num_spatial_layers=2, num_depth_layers=1, num_attention_heads=2, dropout=0.0,
        )
    )  # fmt: skip
    wrap(model, model.code_head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    input_ids, codes = torch.randint(10, (4, 3)), torch.randint(16, (4, 2, 2, 3))
    residuals = torch.randn(4, 2, 2, 3, 8)
    losses = []
    for _ in range(STEPS):
        outputs = model(share(input_ids), share(codes), residuals=share(residuals), label_temperature=0.5)
        losses.append(step(optimizer, outputs.loss))
    if folder is not None:
        save_gathered(model, folder)
    return ended(model, losses)


def train_both(folder: Path | None = None) -> dict[str, dict]:
    return {"rqvae": train_rqvae(), "transformer": train_transformer(folder)}


def end_process() -> None:
    """Ends this one of several processes, when all of them are here, at once: a device mesh keeps gloo's threads, and
    one that Python's shutdown meets could abort the process."""
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


def main(folder: str, process: str, processes: str) -> None:
    torch.set_num_threads(1)
    # As launchers do; the address is not used, as the processes have met already.
    os.environ.update(RANK=process, LOCAL_RANK=process, WORLD_SIZE=processes, MASTER_ADDR="localhost")
    store = Path(folder, "store").absolute().as_uri()
    dist.init_process_group("gloo", init_method=store, rank=int(process), world_size=int(processes))
    torch.save(train_both(Path(folder, "transformer")), Path(folder, f"{process}.pt"))
    end_process()


if __name__ == "__main__":
    main(*sys.argv[1:])
