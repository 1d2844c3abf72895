# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Scores pipelines on all prompt sets of `prompt_sets.py`: one table, and a sheet of pictures for each set.

    python research/emoji/prompt_table.py old=OLD_PIPELINE new=checkpoints/emoji-64 --prompts runs/prompts-test \\
        --dataset_name data/emoji-64 --output_dir results/prompts [-- further flags of `prompt_accuracy.py`]

Each prompt is drawn once, with the settings of the checkpoint. The table has top-1 / top-5 by real pictures of any
style and, for prompts with a style, how often the nearest real picture of the concept has it.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import prompt_accuracy
from PIL import Image

from rq_hf.images import image_grid

IN_A_SHEET = 16


def score(model: str, prompts: list[dict[str, Any]], dataset_name: str, folder: Path, flags: list[str]) -> list[dict]:
    """What `prompt_accuracy.py` finds for each prompt, with its picture."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = folder / "asked.jsonl"
    asked.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in prompts), encoding="utf-8")
    where = ["--dataset_name", dataset_name, "--filter", "tone=default,alteration=none", "--prompts", str(asked)]
    prompt_accuracy.main([model, *where, "--output", str(folder / "all.json"), *flags])
    rows = [json.loads(line) for line in (folder / "all.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, picture in zip(rows, sorted((folder / "all").glob("*.png")), strict=True):
        row["picture"] = picture
    return rows


def cell(rows: list[dict[str, Any]]) -> str:
    """`top-1 / top-5, style` of a set."""
    figures = prompt_accuracy.prompt_accuracy(rows)
    style = f", {figures['style']:.2f}" if "style" in figures else ""
    return f"{figures['top1']:.2f} / {figures['top5']:.2f}{style}"


def main() -> None:
    argv, flags = sys.argv[1:], []
    if "--" in argv:
        argv, flags = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--prompts", type=Path, required=True, help="folder of sets")
    parser.add_argument("--sets", nargs="+", help="some of them; all by default")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args(argv)

    sets = arguments.sets or sorted(path.stem for path in arguments.prompts.glob("*.jsonl"))
    lines = {name: (arguments.prompts / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in sets}
    prompts = [{"set": name, **json.loads(line)} for name in sets for line in lines[name]]
    cells = {name: [str(len(lines[name]))] for name in sets}
    models = dict(model.split("=", 1) for model in arguments.models)
    for label, model in models.items():
        rows = score(model, prompts, arguments.dataset_name, arguments.output_dir / label, flags)
        for name in sets:
            of_set = [row for row in rows if row["set"] == name]
            cells[name].append(cell(of_set))
            shown = of_set[:: max(1, len(of_set) // IN_A_SHEET)][:IN_A_SHEET]
            images = [Image.open(row["picture"]) for row in shown]
            captions = [row["prompt"] for row in shown]
            image_grid(images, captions, columns=8).save(arguments.output_dir / label / f"{name}.png")
    table = ["| set | prompts | " + " | ".join(models) + " |", "|" + " --- |" * (2 + len(models))]
    table += [f"| {name} | " + " | ".join(cells[name]) + " |" for name in sets]
    (arguments.output_dir / "table.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))


if __name__ == "__main__":
    main()
