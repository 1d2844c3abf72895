# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Serve a page in the browser that draws with a pipeline, paints inside pictures, varies and reconstructs them.

    python scripts/app.py checkpoints/emoji-64

Needs `pip install ".[demo]"` in a clone. The page has one queue: the model works for one visitor after the other.
GRADIO_SERVER_NAME=0.0.0.0 also serves other machines of the network, --share gives a public address for a week.
A Space on the Hub runs this file; its variable MODEL_ID names the pipeline.
"""

import html
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
import torch
from huggingface_hub import ModelCard
from PIL import Image, ImageChops, ImageOps
from transformers.utils import cached_file

from rq_hf import RQImageGenerationPipeline, RQInpaintPipeline
from rq_hf.cli import errors_in_one_line, options
from rq_hf.images import decode_image, to_pil

SHOWN_SIZE = 256  # pixels of a picture on the page
MAX_PICTURES = 9
MAX_PROMPT_LENGTH = 1000  # characters
MAX_UPLOAD, MAX_UPLOAD_PIXELS = "20mb", 2**25
MAX_WAITING = 20  # clicks in the queue
PROGRESS = gr.Progress(track_tqdm=True)
NUM_CANDIDATES = 4  # for each picture, of which the likeliest is shown


class Studio:
    """What the buttons of the page do. The visitor's codes (B, H, W, D) are handed in and out."""

    def __init__(self, pipe: RQImageGenerationPipeline):
        self.pipe, self.inpaint = pipe, RQInpaintPipeline(**pipe.components)

    def draw(self, condition, depth, count, seed, freer, bar=PROGRESS):
        """Codes of new pictures, the pictures, and a line about them."""
        codes, about = self._call(self.pipe, condition, count, seed, freer, output_type="latent")
        return codes.cpu(), self.decode(codes, depth), about

    def paint(self, canvas, condition, count, seed, freer, bar=PROGRESS):
        """The uploaded picture, drawn anew where it was painted over. It has no codes."""
        if canvas is None or canvas["background"] is None:
            raise ValueError("Upload a picture first.")
        mask = Image.new("L", canvas["background"].size)
        for layer in canvas["layers"]:
            mask = ImageChops.lighter(mask, layer.getchannel("A"))
        if mask.getbbox() is None:
            raise ValueError("Paint over the part that is to be drawn anew.")
        pictures = {"image": self._read(canvas["background"]), "mask_image": mask}
        return None, *self._call(self.inpaint, condition, count, seed, freer, **pictures)

    def vary(self, shown, chosen, condition, depth, count, seed, freer, bar=PROGRESS):
        """Draws the details of a picture of the page anew."""
        picture = self._read(shown[min(chosen, len(shown) - 1)][0] if shown else None)
        options = {"image": picture, "output_type": "latent"}
        codes, about = self._call(self.pipe.vary, condition, count, seed, freer, **options)
        return codes.cpu(), self.decode(codes, depth), about

    def reconstruct(self, image, depth):
        """Codes of an uploaded picture, and its reconstruction."""
        size = self.pipe.rqvae.config.image_size
        square = ImageOps.fit(self._read(image), (size, size), Image.Resampling.LANCZOS)
        codes = self.pipe.reconstruct(square, output_type="latent").images.cpu()
        return codes, self.decode(codes, depth), ""

    @torch.inference_mode()
    def decode(self, codes: torch.Tensor | None, depth: int) -> Any:
        """Decodes the first `depth` codes of each position and enlarges the pictures. Without codes the page stays."""
        if codes is None:
            return gr.skip()
        rqvae = self.pipe.rqvae
        images = to_pil(rqvae.decode(codes[..., : int(depth)].to(rqvae.device)))
        size = max(SHOWN_SIZE, images[0].width)
        return [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]

    def _call(self, call: Callable, condition, count, seed, freer, **options) -> tuple[Any, str]:
        """Calls a pipeline. Returns its pictures and a line with the seed; the seed 0 stands for a new one."""
        seed = int(seed or 0) or secrets.randbelow(2**32)
        generators = [torch.Generator().manual_seed(seed + index) for index in range(int(count))]
        options |= {"num_images_per_prompt": len(generators), "generator": generators}
        if freer:
            options["temperature"] = 1.0
        else:
            options |= {"num_candidates": NUM_CANDIDATES * len(generators), "ranker": "likelihood"}
        about, name = f"Seed {seed}", self.pipe.transformer.config.condition_name
        if name == "prompt":
            condition = condition or ""
            if len(condition) > MAX_PROMPT_LENGTH:
                raise ValueError(f"The prompt must have at most {MAX_PROMPT_LENGTH} characters.")
            if self.pipe.prompt_rewriter is not None:
                about += f", read as: {self.pipe.rewrite(condition) or 'nothing'}"
        if name is not None:
            options[name] = condition
        with warnings_on_page():
            return call(**options).images, about

    def _read(self, image: str | Image.Image | None) -> Image.Image:
        if image is None:
            raise ValueError("Upload or draw a picture first.")
        return decode_image(image, max_pixels=MAX_UPLOAD_PIXELS)


@contextmanager
def warnings_on_page() -> Iterator[None]:
    """Shows the visitor the warnings of the library."""
    handler, logger = logging.Handler(logging.WARNING), logging.getLogger("rq_hf")
    handler.emit = lambda record: gr.Warning(html.escape(record.getMessage()))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def read_card(model: str, revision: str | None = None) -> tuple[str, list[str]]:
    """The first sentence of a model's card, and the prompts that its metadata gives under `widget`."""
    with suppress(OSError):
        card = ModelCard.load(cached_file(model, "README.md", revision=revision))
        paragraphs = [text for text in card.text.strip().split("\n\n") if text[:1] not in "#!<|["]
        return "".join(paragraphs[:1]).split(". ")[0], [example["text"] for example in card.data.get("widget") or []]
    return "", []


def build_page(pipe: RQImageGenerationPipeline, name: str, about: str = "", prompts: Sequence[str] = ()) -> gr.Blocks:
    """The page; `serve` serves it. `about` says what the model draws, `prompts` are examples to click."""
    studio, config = Studio(pipe), pipe.transformer.config
    with gr.Blocks(title=name, delete_cache=(600, 3600)) as page:
        codes, chosen = gr.State(), gr.State(0)  # (B, H, W, D), and the place of a picture; the visitor's own
        gr.Markdown(f"# {name}\n\n{about}")
        with gr.Row():
            with gr.Column():
                if config.condition_name == "prompt":
                    limits = {"max_lines": 1, "max_length": MAX_PROMPT_LENGTH, "elem_id": "prompt"}
                    condition = gr.Textbox("".join(prompts[:1]), label="Prompt", **limits)
                    if prompts:
                        gr.Examples([[prompt] for prompt in prompts[:6]], condition, elem_id="examples")
                else:
                    choices = [((config.id2label or {}).get(index, str(index)), index) for index in config.class_ids]
                    is_needed = config.condition_name is not None
                    condition = gr.Dropdown(choices, value=choices[0][1], label="Class", visible=is_needed)
                with gr.Tab("Draw"):
                    draw = gr.Button("Draw", variant="primary", elem_id="draw")
                with gr.Tab("Paint"):
                    label = {"label": "Picture", "placeholder": "Upload a picture,\nthen paint over a part"}
                    brush = gr.Brush(colors=["#ff2d87"], color_mode="fixed")
                    tools = {"layers": False, "sources": ["upload", "clipboard"], "transforms": (), "brush": brush}
                    canvas = gr.ImageEditor(type="pil", format="png", height=420, elem_id="canvas", **label, **tools)
                    paint = gr.Button("Paint", variant="primary", elem_id="paint")
                with gr.Tab("Reconstruct"):
                    label = {"label": "Picture", "height": 220, "elem_id": "original"}
                    original = gr.Image(type="filepath", image_mode=None, **label)  # decoded by `Studio`
                    reconstruct = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct")
                with gr.Row():
                    count = gr.Slider(1, MAX_PICTURES, value=4, step=1, label="Pictures", elem_id="count")
                    label = {"label": "Seed", "info": "0: a new one each time.", "elem_id": "seed"}
                    seed = gr.Number(0, precision=0, minimum=0, maximum=2**32, **label)
                freer = gr.Checkbox(False, label="Freer: varied pictures instead of the likeliest", elem_id="freer")
            with gr.Column():
                look = {"show_label": False, "height": "fit-content", "format": "png", "elem_id": "pictures"}
                pictures = gr.Gallery(interactive=False, **look)
                line = gr.Textbox(label="Last drawing", interactive=False, elem_id="about")
                vary = gr.Button("Vary the chosen picture", elem_id="vary")
                label = {"label": "Codes of each position", "info": "Fewer are coarser.", "elem_id": "depth"}
                depth = gr.Slider(1, config.code_shape[2], value=config.code_shape[2], step=1, **label)
        queue, outputs = {"concurrency_id": "model", "concurrency_limit": 1}, [codes, pictures, line]
        settings = [count, seed, freer]
        clicks = [draw.click, *([condition.submit] if isinstance(condition, gr.Textbox) else [])]
        gr.on(clicks, studio.draw, [condition, depth, *settings], outputs, api_name="draw", **queue)
        paint.click(studio.paint, [canvas, condition, *settings], outputs, **queue)
        vary.click(studio.vary, [pictures, chosen, condition, depth, *settings], outputs, **queue)
        reconstruct.click(studio.reconstruct, [original, depth], outputs, **queue)
        depth.change(studio.decode, [codes, depth], pictures, trigger_mode="always_last", **queue)
        pictures.select(index_of, None, chosen, api_name=False)
    return page


def index_of(event: gr.SelectData) -> int:
    """The place of the picture that was clicked."""
    return event.index


def serve(page: gr.Blocks, port: int | None = None, **launch_options: Any) -> None:
    """Serves a page that shows errors; the size of uploads and the length of the queue are bounded."""
    theme = gr.themes.Soft(font=["system-ui"], font_mono=["monospace"])  # fonts that the browser need not fetch
    launch_options |= {"server_port": port, "theme": theme, "max_file_size": MAX_UPLOAD}
    page.queue(max_size=MAX_WAITING).launch(
        ssr_mode=False, show_error=True, quiet=True, prevent_thread_lock=True, **launch_options
    )


def main(argv: Sequence[str]) -> None:
    """Reads the arguments, and serves the page until Ctrl-C."""
    parser = options.CommandParser(prog="app.py", usage="%(prog)s MODEL [options]", description=__doc__)
    options.add_model_arguments(parser)
    port = partial(options.integer, low=1, high=65535)
    parser.add_argument("--port", type=port, help="by default GRADIO_SERVER_PORT, or the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="also serve it at a public address, through gradio.live")
    arguments = parser.parse_args(argv)
    name = arguments.model.rstrip("/").split("/")[-1]
    page = build_page(options.load_pipeline(arguments), name, *read_card(arguments.model, arguments.revision))
    serve(page, arguments.port, share=arguments.share)
    print(f"Open {page.share_url or page.local_url}; Ctrl-C ends it.")
    page.block_thread()


if __name__ == "__main__":
    with errors_in_one_line():
        main([*filter(None, [os.environ.get("MODEL_ID")]), *sys.argv[1:]])
