# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Ways to evaluate, the published ones (section 4) first: how many pictures, of what, against which real ones."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """
    A way to evaluate.

    Args:
        description (`str`): what it is.
        num_pictures (`int`, *optional*): pictures to generate; `None` is one per caption.
        conditions (`str`): `"labels"`, each class equally often, or nothing for an unconditional model; or
            `"captions"`.
        every_caption (`bool`): of several captions of a picture every one counts, or the first.
        transform (`str`): of the real pictures, a key of `TRANSFORMS`, in its form for evaluation.
        inception_score (`bool`): whether the Inception score belongs to it.
        clip_score (`bool`): whether the CLIP score belongs to it.
    """

    description: str
    num_pictures: int | None
    conditions: str
    every_caption: bool = False
    transform: str = "center_crop"
    inception_score: bool = False
    clip_score: bool = False


PROTOCOLS = {
    "labels": Protocol(
        "Tables 1 and 2: 50,000 pictures, classes equally often, against all training pictures (--reference of the "
        "training split).",
        num_pictures=50_000,
        conditions="labels",
        inception_score=True,
    ),
    "cc3m": Protocol(
        "Table 3: one picture for each caption of the validation split, against its pictures, and CLIP score.",
        num_pictures=None,
        conditions="captions",
        transform="cc3m",
        clip_score=True,
    ),
    "coco2014": Protocol(
        "MS-COCO: 30,000 captions drawn among all of val2014, against its pictures, and CLIP score.",
        num_pictures=30_000,
        conditions="captions",
        every_caption=True,
        transform="cc3m",
        clip_score=True,
    ),
    "captions": Protocol(
        "One picture for each caption of any split, against real pictures.", num_pictures=None, conditions="captions"
    ),
}
