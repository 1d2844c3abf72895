# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A page in the browser that draws with a pipeline: prompts, sampling, coarse to fine, completion of a picture.

    python scripts/app.py checkpoints/emoji-64

Needs `pip install -e ".[demo]"`. Each visitor has pictures of their own; the model works for one after the other.
"""

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
import torch
from PIL import Image, ImageOps

from rq_hf import RQImageGenerationPipeline
from rq_hf.command_line import INPUT_ERRORS, add_device_argument
from rq_hf.likelihood_ranking import LIKELIHOOD
from rq_hf.picture_decoding import decode_picture

SHOWN_SIZE = 256  # pixels of a picture on the page
SIDES = ("top", "bottom", "left", "right")
MAX_PICTURES = 9
MAX_CANDIDATES = 16  # of each picture
CANDIDATE_BATCH_SIZE = 16
MAX_SEED = 2**31 - 1
CSS = ".gradio-container { max-width: 1180px !important; margin: auto; }"
INTRODUCTION = """# {name}

An RQ-Transformer draws a map of {height} x {width} positions with {depth} codes each, and an RQ-VAE decodes it to a
picture. The first code of a position says roughly what is there, each further one makes it finer."""


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    environ = os.environ  # a Space on the Hub says by variables what the command line says elsewhere
    demo = environ.get("MODEL_ID", "checkpoints/emoji-64")
    host, port = environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), int(environ.get("GRADIO_SERVER_PORT", 7860))
    parser.add_argument("model", nargs="?", default=demo, help="Hub id or folder of a pipeline; or MODEL_ID")
    parser.add_argument("--host", default=host, help="0.0.0.0: for other machines, too")
    parser.add_argument("--port", type=int, default=port)
    add_device_argument(parser)
    return parser.parse_args(argv)


def side_mask(code_shape: tuple[int, int, int], side: str, part: float) -> torch.BoolTensor:
    """`True` at the positions `(H, W)` of one side of a picture; at least one row or column is kept, and not all."""
    height, width, _ = code_shape
    length = height if side in ("top", "bottom") else width
    kept = torch.arange(length) < max(1, min(length - 1, round(part * length)))
    kept = kept.flip(0) if side in ("bottom", "right") else kept
    return (kept[:, None] if side in ("top", "bottom") else kept[None, :]).expand(height, width)


def enlarged(image: Image.Image) -> Image.Image:
    return image.resize((SHOWN_SIZE, SHOWN_SIZE), Image.Resampling.BICUBIC) if image.width < SHOWN_SIZE else image


class PageWarnings(logging.Handler):
    """Shows the visitor what the pipeline warns of, such as the part of a prompt that it cuts."""

    def emit(self, record: logging.LogRecord) -> None:
        gr.Warning(record.getMessage())


@contextmanager
def messages_on_the_page() -> Iterator[None]:
    """Shows a bad input, and warnings, to the visitor."""
    logger, handler = logging.getLogger(RQImageGenerationPipeline.__module__), PageWarnings(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error)) from error
    finally:
        logger.removeHandler(handler)


class Studio:
    """What the page's buttons do with a pipeline. What a visitor has drawn, its codes, is handed in and out."""

    def __init__(self, pipe: RQImageGenerationPipeline):
        self.pipe = pipe
        pipe.set_progress_bar_config(disable=True)

    def condition(self, text: str | int | None) -> dict[str, Any]:
        """What the visitor typed or chose, as an argument of the pipeline."""
        config = self.pipe.transformer.config
        if config.condition_length > 1:
            return {"prompt": text}
        return {"class_labels": text} if config.vocab_size > 1 else {}

    def settings(self, count, seed, temperature, top_k, top_p, guidance, candidates=1) -> dict[str, Any]:
        """Sampling as arguments of the pipeline; a generator for each picture, of seeds in a row."""
        if seed is None:
            raise gr.Error("Enter a seed, a whole number.")
        own = self.pipe.transformer.generation_config
        chosen = {"temperature": temperature, "top_k": int(top_k), "top_p": top_p, "guidance_scale": guidance}
        for name in ("temperature", "top_k", "top_p"):
            values = getattr(own, name, None)
            if isinstance(values, (list, tuple)) and chosen[name] == shown_setting(self.pipe, name):
                chosen[name] = values  # one per depth, of which the page shows the first
        if candidates > 1:
            chosen.update(num_candidates=int(count) * int(candidates), ranker=LIKELIHOOD)
        return {
            "num_images_per_prompt": int(count),
            "generator": [torch.Generator().manual_seed(int(seed) + index) for index in range(int(count))],
            **chosen,
        }

    def draw(self, text, depth, *sampling, progress=None):
        """Codes of new pictures, and the pictures."""
        return self.shown(self.pipe, {}, text, depth, sampling, progress)

    def complete(self, image, text, side, part, depth, *sampling, progress=None):
        """Codes of pictures that keep a side of an uploaded one, and the pictures."""
        if image is None:
            raise gr.Error("Upload a picture first.")
        size = self.pipe.rqvae.config.image_size
        mask = side_mask(self.pipe.transformer.config.code_shape, side, part / 100)
        with messages_on_the_page():
            picture = ImageOps.fit(decode_picture(image), (size, size), Image.Resampling.LANCZOS)
        return self.shown(self.pipe.complete, {"image": picture, "mask": mask}, text, depth, sampling, progress)

    def shown(self, call: Callable, options: dict[str, Any], text, depth, sampling, progress):
        """Codes and pictures of a call of the pipeline, which moves the bar on the page on."""
        options = options | self.condition(text) | self.settings(*sampling)
        height, width, _ = self.pipe.transformer.config.code_shape
        batches = -(-options.get("num_candidates", 1) // CANDIDATE_BATCH_SIZE)

        def on_step_end(pipe, step: int, position: int, tensors: dict[str, torch.Tensor]) -> dict:
            progress((step + 1, batches * height * width), desc="Drawing", unit="positions")
            return {}

        with messages_on_the_page():
            codes = call(
                **options, candidate_batch_size=CANDIDATE_BATCH_SIZE, output_type="latent",
                callback_on_step_end=on_step_end,
            ).images  # fmt: skip
        return codes.cpu(), self.gallery(codes, depth)

    def decode(self, codes: torch.Tensor | None, depth: int) -> list[Image.Image]:
        """The pictures that the first depths of the codes give."""
        if codes is None:
            return []
        with torch.no_grad():
            pixels = self.pipe.rqvae.decode(codes[..., : int(depth)].to(self.pipe.rqvae.device))
        return [enlarged(image) for image in self.pipe.image_processor.postprocess(pixels.float())]

    def gallery(self, codes: torch.Tensor | None, depth: int) -> gr.Gallery:
        """The same, in a grid."""
        pictures = self.decode(codes, depth)
        return gr.Gallery(pictures, columns=1 if len(pictures) == 1 else 2 if len(pictures) <= 4 else 3)


def shown_setting(pipe: RQImageGenerationPipeline, name: str) -> float:
    """What the control of a setting begins with: the checkpoint's own, of the first depth where it has one per depth,
    or what has no effect."""
    value = getattr(pipe.transformer.generation_config, name, None)
    value = value[0] if isinstance(value, (list, tuple)) else value
    if name == "top_k":
        size = pipe.transformer.config.codebook_size
        return size if value is None else min(value, size)
    return 1.0 if value is None else value


def sampling_controls(pipe: RQImageGenerationPipeline) -> list[gr.components.Component]:
    """Controls of the sampling, set as the checkpoint's own; in the order of `Studio.settings`."""
    config = pipe.transformer.config
    with gr.Row():
        count = gr.Slider(1, MAX_PICTURES, value=4, step=1, label="Pictures", elem_id="count")
        seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed", elem_id="seed")
    with gr.Accordion("Sampling", open=False):
        value = shown_setting(pipe, "temperature")
        temperature = gr.Slider(min(0.05, value), max(2.0, value), value=value, step=0.05, label="Temperature")
        value, label = shown_setting(pipe, "top_k"), "Top-k: draw from so many codes"
        top_k = gr.Slider(1, config.codebook_size, value=value, step=1, label=label)
        value = shown_setting(pipe, "top_p")
        label = "Top-p: draw from so much probability"
        top_p = gr.Slider(min(0.05, value), 1.0, value=value, step=0.05, label=label)
        value = shown_setting(pipe, "guidance_scale")
        guidance = gr.Slider(
            0.0, max(8.0, value), value=value, step=0.1, label="Guidance (1: none)",
            interactive=config.null_condition_ids is not None,
        )  # fmt: skip
        label = "Candidates: of so many for each picture the likeliest are shown"
        candidates = gr.Slider(1, MAX_CANDIDATES, value=1, step=1, label=label)
    return [count, seed, temperature, top_k, top_p, guidance, candidates]


def condition_control(pipe: RQImageGenerationPipeline, name: str) -> gr.components.Component:
    """A text box for captions, a menu of classes, or nothing that is seen."""
    config = pipe.transformer.config
    if config.condition_length == 1:
        names = {index: (config.id2label or {}).get(index, index) for index in config.class_ids}
        counts = Counter(str(name).strip().lower() for name in names.values())  # told apart by ids where they are one
        is_one = {index: counts[str(name).strip().lower()] == 1 for index, name in names.items()}
        labels = [(str(name), name) if is_one[i] else (f"{name} ({i})", i) for i, name in names.items()]
        return gr.Dropdown(labels, value=labels[0][1], label="Class", elem_id=name, visible=config.vocab_size > 1)
    return gr.Textbox("a red heart, twemoji style", label="Prompt", elem_id=name, max_lines=1)


def build_page(pipe: RQImageGenerationPipeline, name: str) -> gr.Blocks:
    """The page; `launch` shows it."""
    studio, (height, width, depths) = Studio(pipe), pipe.transformer.config.code_shape

    def draw(text, depth, *sampling, progress=gr.Progress()):  # noqa: B008  gradio finds it as a default
        return studio.draw(text, depth, *sampling, progress=progress)

    def complete_picture(image, text, side, part, depth, *sampling, progress=gr.Progress()):  # noqa: B008
        return studio.complete(image, text, side, part, depth, *sampling, progress=progress)

    with gr.Blocks(title=name, analytics_enabled=False) as page:
        drawn = gr.State()  # codes (B, H, W, D) of this visitor
        gr.Markdown(INTRODUCTION.format(name=name, height=height, width=width, depth=depths))
        with gr.Row():
            with gr.Column(scale=2):
                with gr.Tab("Draw"):
                    prompt = condition_control(pipe, "prompt")
                    draw_button = gr.Button("Draw", variant="primary", elem_id="draw")
                with gr.Tab("Complete a picture", elem_id="completion"):
                    upload = gr.Image(type="pil", image_mode=None, label="Picture", height=220, elem_id="upload")
                    completion_prompt = condition_control(pipe, "completion-prompt")
                    side = gr.Radio(SIDES, value="top", label="Side that is kept", elem_id="side")
                    part = gr.Slider(5, 95, value=50, step=5, label="Part that is kept (%)")
                    complete_button = gr.Button("Complete", variant="primary", elem_id="complete")
                sampling = sampling_controls(pipe)
            with gr.Column(scale=3):
                pictures = gr.Gallery(
                    label="Pictures", show_label=False, columns=2, height=570, object_fit="contain", format="png",
                    elem_id="pictures",
                )  # fmt: skip
                depth = gr.Slider(
                    1, depths, value=depths, step=1, label=f"Coarse to fine: codes of each position, of {depths}",
                    elem_id="depth",
                )  # fmt: skip
        # One event at a time uses the model, whichever button it comes from.
        one_at_a_time = {"concurrency_id": "model", "concurrency_limit": 1}
        shown = [drawn, pictures]
        draw_inputs = [prompt, depth, *sampling]
        begins = [draw_button.click, *([prompt.submit] if isinstance(prompt, gr.Textbox) else [])]
        gr.on(begins, draw, draw_inputs, shown, api_name="draw", **one_at_a_time)
        completion_inputs = [upload, completion_prompt, side, part, depth, *sampling]
        complete_button.click(complete_picture, completion_inputs, shown, api_name="complete", **one_at_a_time)
        depth.change(
            studio.gallery, [drawn, depth], pictures, trigger_mode="always_last", api_name="decode", **one_at_a_time
        )
    return page


def main(argv=None) -> None:
    arguments = parse_arguments(argv)
    pipe = RQImageGenerationPipeline.from_pretrained(arguments.model).to(arguments.device)
    page = build_page(pipe, arguments.model.rstrip("/").split("/")[-1])
    fonts = ["system-ui", "sans-serif"]  # none that the browser would have to fetch
    theme = gr.themes.Soft(primary_hue="rose", font=fonts, font_mono=["monospace"])
    page.queue().launch(server_name=arguments.host, server_port=arguments.port, theme=theme, css=CSS, ssr_mode=False)


if __name__ == "__main__":
    try:
        main()
    except INPUT_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
