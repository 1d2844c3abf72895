# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Fills holes of held-out pictures, and measures how well the new parts go on with the kept ones.

    python research/contextual/inpainting.py runs/emoji runs/emoji-c --dataset_name data/emoji-64 --split test_combos \
        --caption_column text --filter tone=default,alteration=none --output holes.json

The drawn part is pasted into the picture without a fade. Across each side of the hole the difference of neighbouring
pixels is averaged, and divided by that of the original picture at the same place; 1 is as smooth as the original.
`features` is the distance to the original in EfficientNet-Lite0 features. The last model is the RQ-VAE's own
reconstruction, which knows all codes: no drawing can be expected to be better.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from rq_hf import RQImageGenerationPipeline
from rq_hf.evaluation.features import EfficientNetLite0
from rq_hf.images import image_grid, to_pil, to_rgb, to_uint8
from rq_hf.models.sampling import seeded_generator
from rq_hf.training import CodeDataArguments
from rq_hf.training.conditions import evaluation_samples

SHOWN = 8  # pictures on a sheet


def holes(height: int, width: int) -> dict[str, torch.Tensor]:
    """Which positions `(H, W)` are drawn."""
    masks = {name: torch.zeros(height, width, dtype=torch.bool) for name in ("centre", "right", "lower", "scattered")}
    masks["centre"][height // 4 : -(height // 4), width // 4 : -(width // 4)] = True
    masks["right"][:, width // 2 :] = True
    masks["lower"][height // 2 :] = True
    ranks = torch.rand(height * width, generator=seeded_generator(2)).argsort().argsort()
    masks["scattered"] = (ranks < height * width // 3).view(height, width)
    return masks


def edges(pixels: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """Mean difference of 8-bit pixels `(B, C, h, w)` across each side of the white part of a mask `(h, w)`."""
    found = {}
    for axis, before, after in ((0, "upper", "lower"), (1, "left", "right")):
        change = mask.to(torch.int8).diff(dim=axis)  # 1 where the part begins, -1 where it ends
        steps = pixels.float().diff(dim=axis - 2).abs().mean((0, 1))
        for name, sign in ((before, 1), (after, -1)):
            if (change == sign).any():
                found[name] = steps[change == sign].mean().item()
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of pipelines with one RQ-VAE")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--filter")
    parser.add_argument("--caption_column")
    parser.add_argument("--label_column")
    parser.add_argument("--num_pictures", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--output", type=Path, required=True, help="JSON; a sheet for each hole is written beside it")
    options = parser.parse_args()
    pipes = {Path(model).name: RQImageGenerationPipeline.from_pretrained(model) for model in options.models}
    pipe, extractor = next(iter(pipes.values())), EfficientNetLite0()
    names = ("caption_column", "label_column", "filter")
    data = CodeDataArguments(options.dataset_name, **{name: getattr(options, name) for name in names})
    samples = evaluation_samples(
        data, [options.split], pipe.rqvae.config, pipe.transformer.config, pipe.tokenizer
    )[options.split]  # fmt: skip
    chosen = torch.randperm(len(samples), generator=seeded_generator(1))[: options.num_pictures].sort().values.tolist()
    pixel_values = torch.stack([samples[index]["pixel_values"] for index in chosen])
    input_ids = torch.stack([samples[index]["input_ids"] for index in chosen])
    originals, codes = to_uint8(pixel_values), torch.cat([pipe.rqvae.encode(part) for part in pixel_values.split(50)])
    features = extractor(to_rgb(originals))
    rows: list[dict[str, Any]] = []
    for hole, mask in holes(*codes.shape[1:3]).items():
        factor = originals.shape[-1] // mask.shape[1]
        large = mask.repeat_interleave(factor, 0).repeat_interleave(factor, 1)  # (h, w)
        smooth, tiles = edges(originals, large), [to_pil(torch.where(large, 0, pixel_values[:SHOWN]))]
        for name in (*pipes, "reconstruction"):
            drawn = codes
            if name in pipes:
                known, drawn = ~mask[..., None].expand(codes.shape[1:]), []
                for start in range(0, len(codes), options.batch_size):
                    part = slice(start, start + options.batch_size)
                    generators = [seeded_generator(0, start + index) for index in range(len(codes[part]))]
                    drawn.append(pipes[name].transformer.generate(
                        input_ids[part], known_codes=codes[part], known_mask=known, generator=generators
                    ))  # fmt: skip
                drawn = torch.cat(drawn)
            decoded = torch.cat([pipe.rqvae.decode(part) for part in drawn.split(50)])
            pasted = torch.where(large, decoded, pixel_values)
            found = edges(to_uint8(pasted), large)
            row = {"hole": hole, "model": name} | {side: found[side] / smooth[side] for side in found}
            row["difference"] = sum(found.values()) / len(found)
            row["features"] = (extractor(to_rgb(to_uint8(pasted))) - features).norm(dim=-1).mean().item()
            rows.append(row)
            print(json.dumps(row), flush=True)
            tiles.append(to_pil(pasted[:SHOWN]))
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        tiles.append(to_pil(pixel_values[:SHOWN]))
        titles = ["hole", *pipes, "reconstruction", "original"]
        captions = [title for title in titles for _ in range(SHOWN)]
        sheet = image_grid([image for line in tiles for image in line], captions, columns=SHOWN)
        sheet.save(options.output.with_name(f"{options.output.stem}-{hole}.png"))


if __name__ == "__main__":
    main()
