# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""A language model that draws a stack of codes per step: Llama reads text and z-hat, a depth decoder draws the codes.

Flat tokens (`rq_hf.ImageTokens`) take H x W x D steps of the language model for a picture, this form H x W. In return
the model needs code of its own for training and drawing, which is all here. It overfits eight captioned pictures.
`python research/language/depth_decoder.py` prints the loss, the share of equal codes, and the time of both forms.
"""

import argparse
import time

import torch
from smollm2 import COLOURS, ROOT, draw_shape
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaModel

from rq_hf import (
    DepthDecoder,
    ImageTokens,
    ImageTokensLogitsProcessor,
    RQGenerationConfig,
    RQTransformerConfig,
    RQVAEImageProcessorPil,
    RQVAEModel,
)

CHECKPOINT = ROOT / "checkpoints" / "emoji-64"
SIZES = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
PAIRS = [(colour, shape) for colour in [*COLOURS][:4] for shape in ("circle", "star")]


class StackDrawer(nn.Module):
    """Draws H x W stacks of D codes after a caption.

    Args:
        rqvae ([`RQVAEModel`]): Gives the codebook and the shape of the codes.
        vocab_size (`int`): Tokens of the captions.
    """

    def __init__(self, rqvae: RQVAEModel, vocab_size: int):
        super().__init__()
        config = rqvae.config
        self.backbone = LlamaModel(LlamaConfig(vocab_size=vocab_size, **SIZES))
        self.start = nn.Parameter(0.02 * torch.randn(SIZES["hidden_size"]))  # in place of <image>
        self.picture_in = nn.Linear(config.codebook_dim, SIZES["hidden_size"])  # z-hat to an input of the backbone
        depth_config = RQTransformerConfig(
            code_shape=config.code_shape, codebook_size=config.codebook_size, codebook_dim=config.codebook_dim,
            shared_codebook=config.shared_codebook, hidden_size=SIZES["hidden_size"], num_depth_layers=2,
            num_attention_heads=4,
        )  # fmt: skip
        self.depth_decoder = DepthDecoder(depth_config)
        self.depth_decoder.set_codebook(rqvae.codebook)

    def prefix(self, input_ids: torch.LongTensor) -> torch.Tensor:
        """Inputs of the backbone for captions `(B, S)` and the start of a picture, `(B, S + 1, n_e)`."""
        words = self.backbone.get_input_embeddings()(input_ids)  # (B, S, n_e)
        return torch.cat([words, self.start.expand(len(words), 1, -1)], dim=1)

    def forward(self, input_ids: torch.LongTensor, codes: torch.LongTensor) -> torch.Tensor:
        """Mean loss of the codes `(B, T, D)` of pictures after captions `(B, S)`."""
        quantized = self.depth_decoder.partial_sums(codes)[..., -1, :]  # (B, T, n_z), z-hat
        inputs = torch.cat([self.prefix(input_ids), self.picture_in(quantized[:, :-1])], dim=1)  # (B, S + T, n_e)
        hidden = self.backbone(inputs_embeds=inputs).last_hidden_state
        return self.depth_decoder(hidden[:, -codes.shape[1] :], codes, labels=codes).mean()

    @torch.no_grad()
    def draw(self, input_ids: torch.LongTensor, num_positions: int) -> torch.LongTensor:
        """Likeliest codes `(B, T, D)` after captions `(B, S)`."""
        sampling = RQGenerationConfig(do_sample=False)
        inputs, cache, stacks = self.prefix(input_ids), None, []
        for _ in range(num_positions):
            output = self.backbone(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
            codes, quantized, _ = self.depth_decoder.draw(output.last_hidden_state[:, -1], sampling)
            stacks.append(codes)
            inputs, cache = self.picture_in(quantized)[:, None], output.past_key_values
        return torch.stack(stacks, dim=1)


def train(model: nn.Module, steps: int, loss_of) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return loss.item()


def timed(call):
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    rqvae = RQVAEModel.from_pretrained(CHECKPOINT / "rqvae").eval()
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT, subfolder="tokenizer")
    captions = [" ".join(pair) for pair in PAIRS]
    words = tokenizer(captions, return_tensors="pt", add_special_tokens=False).input_ids
    processor = RQVAEImageProcessorPil.from_rqvae_config(rqvae.config)
    pixels = processor([draw_shape(*pair) for pair in PAIRS], return_tensors="pt").pixel_values
    codes = rqvae.encode(pixels)  # (B, H, W, D)

    stacks = StackDrawer(rqvae, len(tokenizer))
    loss, seconds = timed(lambda: train(stacks, steps, lambda model: model(words, codes.flatten(1, 2))))
    drawn, drawing = timed(lambda: stacks.eval().draw(words, codes[0, ..., 0].numel()).view(codes.shape))
    report("stacks", loss, seconds, (drawn == codes).float().mean(), drawing)

    image_tokens = ImageTokens(rqvae, tokenizer)
    flat = LlamaForCausalLM(LlamaConfig(vocab_size=image_tokens.begin_id, tie_word_embeddings=True, **SIZES))
    image_tokens.extend(flat)
    ids = torch.cat([words, image_tokens.encode(codes)], dim=1)
    labels = ids.clone()
    labels[:, : words.shape[1] + 1] = -100
    loss, seconds = timed(lambda: train(flat, steps, lambda model: model(input_ids=ids, labels=labels).loss))
    prompt = ids[:, : words.shape[1] + 1]
    settings = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "pad_token_id": 0}
    settings |= {
        "logits_processor": [ImageTokensLogitsProcessor(image_tokens)],
        "max_new_tokens": codes[0].numel() + 1,
    }
    output, drawing = timed(lambda: flat.eval().generate(prompt, **settings))
    drawn = torch.cat([image_tokens.decode(row, output_type="latent") for row in output])
    report("flat tokens", loss, seconds, (drawn == codes).float().mean(), drawing)


def report(form: str, loss: float, seconds: float, equal: torch.Tensor, drawing: float) -> None:
    parts = f"loss {loss:.4f}, equal codes {equal:.1%}, training {seconds:.0f} s, drawing 8 pictures {drawing:.1f} s"
    print(f"{form}: {parts}", flush=True)


if __name__ == "__main__":
    main()
