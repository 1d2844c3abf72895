# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Serve a page in the browser that draws with a pipeline, paints inside pictures, varies and reconstructs them.

    rq-hf app checkpoints/emoji-64

Needs `pip install ".[demo]"` in a clone. The page has one queue: the model works for one visitor after the other.
GRADIO_SERVER_NAME=0.0.0.0 also serves other machines of the network, --share gives a public address for a week.
"""

from collections.abc import Sequence
from functools import partial

from . import options


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf app`."""
    parser = options.CommandParser(prog="rq-hf app", usage="%(prog)s MODEL [options]", description=__doc__)
    options.add_model_arguments(parser)
    port = partial(options.integer, low=1, high=65535)
    parser.add_argument("--port", type=port, help="by default GRADIO_SERVER_PORT, or the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="also serve it at a public address, through gradio.live")
    arguments = parser.parse_args(argv)

    from .page import build_page, read_card, serve

    name = arguments.model.rstrip("/").split("/")[-1]
    page = build_page(options.load_pipeline(arguments), name, *read_card(arguments.model, arguments.revision))
    serve(page, arguments.port, share=arguments.share)
    print(f"Open {page.share_url or page.local_url}; Ctrl-C ends it.")
    page.block_thread()
