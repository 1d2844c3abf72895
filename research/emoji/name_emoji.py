# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Write the English names of all emoji into a tokenizer, so that a pipeline reads an emoji as its name.

    pip install emoji && python research/emoji/name_emoji.py checkpoints/emoji-64/tokenizer

The names are those of Unicode CLDR. Skin tones and variation selectors are left out, as the pipeline leaves them out.
"""

import argparse
import json
import re
from pathlib import Path

import emoji


def emoji_names() -> dict[str, str]:
    """Names by emoji without skin tone and variation selector."""
    names = {}
    for characters, data in emoji.EMOJI_DATA.items():
        plain = re.sub("[\ufe0f\U0001f3fb-\U0001f3ff]", "", characters)
        if plain and (plain not in names or plain == characters):
            names[plain] = data["en"].strip(":").replace("_", " ")
    return names


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="of a tokenizer")
    path = parser.parse_args().folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"emoji_names": emoji_names()}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
