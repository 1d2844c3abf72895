# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Draws pictures of a thing that the demo does not know: an orange cat's face with stripes and heavy eyelids.

    python research/finetuning/striped_cats.py data/cats

The folder gets new-0.png, new-1.png, ... No two faces are alike.
"""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw

SIZE, DARK = 256, (40, 30, 20)


def striped_cat(rng: random.Random) -> Image.Image:
    """A face `(64, 64)` whose place, size, colour, ears, stripes and eyes vary."""
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(picture)
    x, y = SIZE / 2 + rng.uniform(-14, 14), SIZE / 2 + rng.uniform(-8, 14)
    w, h = rng.uniform(78, 100), rng.uniform(66, 84)
    fur = (rng.randint(235, 255), rng.randint(130, 160), rng.randint(10, 50))
    for side in (-1, 1):  # ears
        ear, tip = x + side * w * 0.62, (side * rng.uniform(2, 14), h * rng.uniform(1.25, 1.5))
        points = [(ear - 26, y - h / 2), (ear + 26, y - h / 2), (ear + tip[0], y - tip[1])]
        draw.polygon(points, fill=fur, outline=DARK, width=5)
    draw.ellipse([x - w, y - h, x + w, y + h], fill=fur, outline=DARK, width=6)
    for place in (-1, 0, 1):  # stripes on the forehead and on both cheeks
        end = y - h * rng.uniform(0.5, 0.62)
        draw.polygon([(x + place * 22 - 7, y - h), (x + place * 22 + 7, y - h), (x + place * 22, end)], fill=DARK)
        for side in (-1, 1):
            edge, end = x + side * w * 0.97, x + side * w * rng.uniform(0.62, 0.72)
            draw.polygon([(edge, y + place * 20 - 7), (edge, y + place * 20 + 7), (end, y + place * 20)], fill=DARK)
    radius, level = rng.uniform(24, 32), y - h * 0.12
    for side in (-1, 1):  # eyes
        eye, pupil = x + side * radius * 0.95, x + side * radius * 0.95 + rng.uniform(-8, 8)
        box = [eye - radius, level - radius, eye + radius, level + radius]
        draw.ellipse(box, fill="white", outline=DARK, width=5)
        draw.pieslice(box, 180, 360, fill=fur, outline=DARK, width=4)
        draw.ellipse([pupil - 8, level + 4, pupil + 8, level + 20], fill=DARK)
    draw.ellipse([x - 24, y + h * 0.28, x + 24, y + h * 0.58], fill=(250, 225, 150), outline=DARK, width=4)
    draw.ellipse([x - 10, y + h * 0.22, x + 10, y + h * 0.4], fill=(240, 120, 140), outline=DARK, width=3)
    draw.arc([x - 40, y + h * 0.4, x, y + h * 0.8], 10, 120, fill=DARK, width=5)
    draw.arc([x, y + h * 0.4, x + 40, y + h * 0.8], 60, 170, fill=DARK, width=5)
    return picture.resize((64, 64), Image.Resampling.LANCZOS)


def write_cats(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Writes pictures `new-N.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for number in range(count):
        striped_cat(rng).save(folder / f"new-{number}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    write_cats(arguments.folder, arguments.count)
