# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Serve a page in the browser that draws with a pipeline, reconstructs and completes pictures.

    rq-hf app checkpoints/emoji-64

Needs `pip install "rq_hf[demo]"`. The page has one queue: the model works for one visitor after the other.
GRADIO_SERVER_NAME=0.0.0.0 also serves other machines.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import emoji
import gradio as gr
import torch
from PIL import Image, ImageOps

from ..images import decode_picture, to_pil
from ..pipelines import RQImageGenerationPipeline
from . import options

SHOWN_SIZE = 256  # pixels of a picture on the page
MAX_PICTURES = 9
MAX_CANDIDATES = 16  # for each picture
MAX_PROMPT_LENGTH = 1000  # characters
MAX_UPLOAD, MAX_UPLOAD_PIXELS = "20mb", 2**25
MAX_WAITING = 20  # clicks in the queue
PROGRESS = gr.Progress(track_tqdm=True)
INTRODUCTION = """# {name}
An RQ-Transformer draws a map of {height} x {width} positions with {depth} codes each; an RQ-VAE decodes it to a
picture. The first code of a position says roughly what is there, each further one makes it finer."""


class Studio:
    """What the buttons of the page do. The visitor's codes (B, H, W, D) are handed in and out."""

    def __init__(self, pipe: RQImageGenerationPipeline):
        self.pipe = pipe

    def draw(self, condition, depth, count, seed, candidates, temperature, top_k, image=None, rows=None, bar=PROGRESS):
        """Codes of new pictures, and the pictures. With `rows` they keep the first rows of codes of an `image`."""
        config, call = self.pipe.transformer.config, self.pipe
        generators = [torch.Generator().manual_seed(int(seed or 0) + index) for index in range(int(count))]
        options = {"num_images_per_prompt": len(generators), "generator": generators, "output_type": "latent"}
        options |= {"temperature": temperature or None, "top_k": top_k or None}
        if config.condition_length > 1:
            if len(condition or "") > MAX_PROMPT_LENGTH:
                raise ValueError(f"The prompt must have at most {MAX_PROMPT_LENGTH} characters.")
            options["prompt"] = spoken(condition or "")
        elif config.vocab_size > 1:
            options["class_labels"] = condition
        if candidates > 1:
            options |= {"num_candidates": int(candidates) * len(generators), "ranker": "likelihood"}
        if rows is not None:
            call, (height, width, _) = self.pipe.complete, config.code_shape
            kept = (torch.arange(height) < rows)[:, None].expand(height, width)
            options |= {"image": self._square(image), "mask": kept}
        codes = call(**options).images.cpu()
        return codes, self.decode(codes, depth)

    def reconstruct(self, image, depth):
        """Codes of an uploaded picture, and what they decode to."""
        codes = self.pipe.reconstruct(self._square(image), output_type="latent").images.cpu()
        return codes, self.decode(codes, depth)

    @torch.inference_mode()
    def decode(self, codes: torch.Tensor | None, depth: int) -> list[Image.Image]:
        """The enlarged pictures that the first codes of each position decode to."""
        if codes is None:
            return []
        rqvae = self.pipe.rqvae
        images = to_pil(rqvae.decode(codes[..., : int(depth)].to(rqvae.device)))
        size = max(SHOWN_SIZE, images[0].width)
        return [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]

    def _square(self, image: str | None) -> Image.Image:
        if image is None:
            raise ValueError("Upload a picture first.")
        size = self.pipe.rqvae.config.image_size
        picture = decode_picture(image, max_pixels=MAX_UPLOAD_PIXELS)
        return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def spoken(text: str) -> str:
    """Puts names in place of emoji: "a 🚀" becomes "a rocket"."""
    named = emoji.replace_emoji(text, lambda characters, data: f" {data['en'].strip(':').replace('_', ' ')} ")
    return " ".join(named.split())


def condition_control(pipe: RQImageGenerationPipeline, elem_id: str) -> gr.components.Component:
    """A text box for captions, a menu of classes, or nothing visible."""
    config = pipe.transformer.config
    if config.condition_length > 1:
        limits = {"max_lines": 1, "max_length": MAX_PROMPT_LENGTH}
        return gr.Textbox("a painting of a cathedral", label="Prompt", elem_id=elem_id, **limits)
    choices = [((config.id2label or {}).get(index, str(index)), index) for index in config.class_ids]
    return gr.Dropdown(choices, value=choices[0][1], label="Class", visible=config.vocab_size > 1, elem_id=elem_id)


def build_page(pipe: RQImageGenerationPipeline, name: str) -> gr.Blocks:
    """The page; `serve` serves it."""
    studio, (height, width, depths) = Studio(pipe), pipe.transformer.config.code_shape
    picture = {"type": "filepath", "image_mode": None, "label": "Picture", "height": 220}  # decoded by `Studio`
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        codes = gr.State()  # (B, H, W, D), the visitor's own
        gr.Markdown(INTRODUCTION.format(name=name, height=height, width=width, depth=depths))
        with gr.Row():
            with gr.Column(scale=2):
                with gr.Tab("Draw"):
                    prompt = condition_control(pipe, "prompt")
                    draw = gr.Button("Draw", variant="primary", elem_id="draw")
                with gr.Tab("Reconstruct"):
                    original = gr.Image(**picture, elem_id="original")
                    reconstruct = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct")
                with gr.Tab("Complete"):
                    upload = gr.Image(**picture, elem_id="upload")
                    completion = condition_control(pipe, "completion-prompt")
                    label = f"Rows of codes that are kept, of {height}"
                    rows = gr.Slider(1, height, value=(height + 1) // 2, step=1, label=label, elem_id="rows")
                    complete = gr.Button("Complete", variant="primary", elem_id="complete")
                with gr.Row():
                    count = gr.Slider(1, MAX_PICTURES, value=4, step=1, label="Pictures", elem_id="count")
                    seed = gr.Number(0, precision=0, minimum=0, maximum=2**32, label="Seed", elem_id="seed")
                about = "For each picture the likeliest of this many is shown."
                candidates = gr.Slider(1, MAX_CANDIDATES, 4, step=1, label="Candidates", info=about)
                with gr.Accordion("Sampling (0: the checkpoint's own)", open=False):
                    temperature = gr.Number(0, minimum=0, step=0.1, label="Temperature", elem_id="temperature")
                    top_k = gr.Number(0, precision=0, minimum=0, label="Top k", elem_id="top_k")
            with gr.Column(scale=3):
                pictures = gr.Gallery(
                    show_label=False, columns=3, height=570, object_fit="contain", format="png", elem_id="pictures"
                )
                label = f"Coarse to fine: the first codes of each position, of {depths}"
                depth = gr.Slider(1, depths, value=depths, step=1, label=label, elem_id="depth")
        queue, outputs = {"concurrency_id": "model", "concurrency_limit": 1}, [codes, pictures]
        settings = [depth, count, seed, candidates, temperature, top_k]
        enter, enter_too = ([box.submit] if isinstance(box, gr.Textbox) else [] for box in (prompt, completion))
        run = functools.partial(gr.on, fn=studio.draw, outputs=outputs, **queue)
        run([draw.click, *enter], inputs=[prompt, *settings], api_name="draw")
        run([complete.click, *enter_too], inputs=[completion, *settings, upload, rows], api_name="complete")
        reconstruct.click(studio.reconstruct, [original, depth], outputs, **queue)
        depth.change(studio.decode, [codes, depth], pictures, trigger_mode="always_last", **queue)
    return page


def serve(page: gr.Blocks, port: int | None = None, **launch_options: Any) -> None:
    """Serves a page that shows errors; the size of uploads and the length of the queue are bounded."""
    theme = gr.themes.Soft(font=["system-ui"], font_mono=["monospace"])  # fonts that the browser need not fetch
    launch_options |= {"server_port": port, "theme": theme, "max_file_size": MAX_UPLOAD}
    page.queue(max_size=MAX_WAITING).launch(ssr_mode=False, show_error=True, **launch_options)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf app`."""
    parser = options.CommandParser(prog="rq-hf app", usage="%(prog)s MODEL [options]", description=__doc__)
    options.add_model_arguments(parser)
    port = functools.partial(options.integer, low=1, high=65535)
    parser.add_argument("--port", type=port, help="by default GRADIO_SERVER_PORT, or the first free one from 7860 on")
    arguments = parser.parse_args(argv)

    page = build_page(options.load_pipeline(arguments), arguments.model.rstrip("/").split("/")[-1])
    serve(page, arguments.port)
