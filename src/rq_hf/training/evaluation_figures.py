# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What an evaluation during the training of an RQ-VAE shows beside the losses: PSNR, use of the codes, pictures.

Symbols: B pictures, D code depth, K codebook size.
"""

import math
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from transformers import Trainer
from transformers.integrations import TensorBoardCallback, WandbCallback

from ..configuration_rqvae import RQVAEConfig
from ..metrics import code_usage, psnr_from_mse
from ..modeling_rqvae import RQVAEModel

PICTURE_FOLDER = "pictures"


class EvaluationFigures:
    """Sums over the batches of one evaluation, on the model's device.

    Args:
        config ([`RQVAEConfig`]): of the model.
        device (`torch.device`): where it is.
    """

    def __init__(self, config: RQVAEConfig, device: torch.device):
        self.config = config
        self.first_pixel_values: torch.Tensor | None = None
        self._first_codes: torch.Tensor | None = None
        self._counts = torch.zeros(config.code_depth * config.codebook_size, dtype=torch.long, device=device)
        self._error = torch.zeros(2, device=device)  # sum over pictures, pictures

    def update(self, pixel_values: torch.Tensor, reconstruction: torch.Tensor, codes: torch.Tensor) -> None:
        """Adds pictures, their reconstruction `(B, C, height, width)` and codes `(B, H, W, D)`; no device sync."""
        if self.first_pixel_values is None:
            self.first_pixel_values, self._first_codes = pixel_values, codes
        self._error += _error_and_count(reconstruction, pixel_values)
        depth, size = self.config.code_depth, self.config.codebook_size
        flat = (codes + size * torch.arange(depth, device=codes.device)).flatten()
        self._counts.index_add_(0, flat, torch.ones_like(flat))

    @torch.no_grad()
    def compute(self, accelerator: Accelerator, rqvae: RQVAEModel | None) -> dict[str, float]:
        """The figures of all processes; each of them has to call it.

        Args:
            accelerator (`Accelerator`): sums over the processes.
            rqvae ([`RQVAEModel`], *optional*): decodes each process's first batch depth by depth; `None` leaves the
                figures of that out.

        Returns:
            `dict`: `mse` of pictures rounded to uint8 with pixels in [0, 1], and its `psnr`; `code_usage`, the part of
            the codebook used over all depths; `code_usage_depth_d` and `code_entropy_depth_d` (nats) of each depth's
            codes; `first_batch_psnr_depth_d` of what the first d codes decode to. Empty if there were no pictures.
        """
        depth, size = self.config.code_depth, self.config.codebook_size
        errors = torch.zeros(1 + depth, 2, device=self._error.device)
        errors[0] = self._error
        if rqvae is not None and self.first_pixel_values is not None:
            for index in range(depth):
                decoded = rqvae.decode(self._first_codes[..., : index + 1])
                errors[1 + index] = _error_and_count(decoded, self.first_pixel_values)
        errors = accelerator.reduce(errors, "sum").cpu()
        counts = accelerator.reduce(self._counts, "sum").cpu().view(depth, size)
        if counts.sum() == 0:
            return {}
        mse, *first_batch = (errors[:, 0] / errors[:, 1]).tolist()
        used = code_usage(counts.sum(0) if self.config.shared_codebook else counts.flatten())["code_usage"]
        figures = {"mse": mse, "psnr": _psnr(mse), "code_usage": used}
        for index in range(depth):
            usage = code_usage(counts[index])
            figures |= {f"{name}_depth_{index + 1}": usage[name] for name in ("code_usage", "code_entropy")}
            if rqvae is not None:
                figures[f"first_batch_psnr_depth_{index + 1}"] = _psnr(first_batch[index])
        return figures


def save_sheet(trainer: Trainer, prefix: str, name: str, sheet: Image.Image) -> None:
    """Writes a picture of an evaluation to `pictures/step-N.png` in the output folder, and to the loggers.

    Args:
        trainer (`Trainer`): whose evaluation it is; on one process only.
        prefix (`str`): of its figures; what it says beside "eval" becomes part of the file's name.
        name (`str`): of the picture in the loggers.
        sheet (`PIL.Image.Image`): the picture.
    """
    part = prefix.removeprefix("eval").strip("_")  # the name of a data set, if there are several
    path = Path(trainer.args.output_dir, PICTURE_FOLDER, f"step-{trainer.state.global_step}{part and f'-{part}'}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    show_picture(trainer, f"{prefix}/{name}", sheet)


def show_picture(trainer: Trainer, name: str, picture: Image.Image) -> None:
    """Hands a picture to TensorBoard and Weights & Biases, where the trainer reports to them."""
    step = trainer.state.global_step
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
        elif isinstance(callback, WandbCallback):
            import wandb

            if wandb.run is not None:
                wandb.log({name: wandb.Image(picture), "train/global_step": step})


def _error_and_count(reconstruction: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
    """Sum over pictures of the mean squared error, rounded to uint8 with pixels in [0, 1], and their number: `(2,)`.

    Other than with `to_uint8`, NaN gives NaN: an evaluation must not end the training that it watches.
    """
    pictures, targets = (
        (each.float() + 1).mul(127.5).clamp(0, 255).round() for each in (reconstruction, pixel_values)
    )
    errors = ((pictures - targets) / 255).square().mean((1, 2, 3))
    return torch.stack([errors.sum(), errors.new_tensor(len(errors))])


def _psnr(mse: float) -> float:
    return math.nan if math.isnan(mse) else psnr_from_mse(mse)
