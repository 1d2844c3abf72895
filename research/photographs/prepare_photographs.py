# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Builds a data set of 7,807 photographs of 99 classes from Caltech-101 (Li et al., 2022, CC BY 4.0).

    python research/photographs/prepare_photographs.py caltech-101 --output_dir data/photographs

`caltech-101` is a folder with `101_ObjectCategories/CLASS/image_0001.jpg`: the archive of
https://doi.org/10.22002/D1.20086, unpacked, or a clone with these files. Faces and the background class are left out.
Files are kept as they are. Each row has `image`, `label` and `text`, the name of its class. The 1,000 photographs of
`validation` are shared out among the classes by their sizes. Two builds are equal.
"""

import argparse
import hashlib
from pathlib import Path

import datasets

LEFT_OUT = {"BACKGROUND_Google", "Faces", "Faces_easy"}
HELD_OUT = 1000


def caption(name: str) -> str:
    """The words of a class: "Grand_Piano" is "grand piano"."""
    return name.replace("_", " ").lower()


def read_classes(folder: Path) -> dict[str, list[bytes]]:
    """The files of each class by its name, in an order that depends on their content only."""
    root = folder / "101_ObjectCategories"
    classes = {}
    for place in sorted((root if root.is_dir() else folder).iterdir()):
        if place.is_dir() and place.name not in LEFT_OUT:
            files = [file.read_bytes() for file in place.glob("*.jpg")]
            if files:
                classes[place.name] = sorted(files, key=lambda content: hashlib.sha256(content).digest())
    if not classes:
        raise ValueError(f"`folder` must hold 101_ObjectCategories/CLASS/*.jpg, got {str(folder)!r}.")
    return classes


def held_out_counts(sizes: dict[str, int], total: int) -> dict[str, int]:
    """How many photographs of each class are held out: by its size, by the largest remainders, `total` in all."""
    shares = {name: size * total / sum(sizes.values()) for name, size in sizes.items()}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write, new or empty")
    options = parser.parse_args(argv)
    if options.output_dir.exists() and any(options.output_dir.iterdir()):
        parser.error(f"`--output_dir` must be new or empty, got {options.output_dir}.")
    try:
        classes = read_classes(options.folder)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    counts = held_out_counts({name: len(files) for name, files in classes.items()}, HELD_OUT)
    label = datasets.ClassLabel(names=[caption(name) for name in classes])
    features = datasets.Features({"image": datasets.Image(), "label": label, "text": datasets.Value("string")})
    rows = {"train": [], "validation": []}
    for name, files in classes.items():
        for number, content in enumerate(files):
            row = {"image": {"bytes": content, "path": None}, "label": caption(name), "text": caption(name)}
            rows["validation" if number < counts[name] else "train"].append(row)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for split, values in rows.items():
        columns = {name: [row[name] for row in values] for name in features}
        columns["label"] = [label.str2int(name) for name in columns["label"]]
        datasets.Dataset.from_dict(columns, features=features).to_parquet(options.output_dir / f"{split}.parquet")
        print(f"{split}: {len(values)} photographs of {len(set(columns['text']))} classes")


if __name__ == "__main__":
    main()
