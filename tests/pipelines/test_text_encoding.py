# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pipelines with a pretrained text encoder, and with a prompt rewriter."""

import pytest
import torch
from conftest import seeded
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from rq_hf import RQImageGenerationPipeline

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "heart", "rocket", "small"]
SIZES = dict(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
PROMPTS = ["a red heart", "rocket", "a small blue rocket heart"]
LENGTH = 6


def make_tokenizer(with_padding: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of words, with the special tokens of BERT, and with no limit of length."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    padding = {"pad_token": "[PAD]"} if with_padding else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **padding)


def make_encoder(kind: str):
    torch.manual_seed(0)
    if kind == "bert":
        return BertModel(BertConfig(**SIZES)).eval()
    if kind == "t5":
        return T5EncoderModel(T5Config(vocab_size=10, d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2)).eval()
    if kind == "clip":
        return CLIPTextModel(CLIPTextConfig(**SIZES, max_position_embeddings=LENGTH, eos_token_id=3)).eval()
    return LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()


@pytest.fixture(params=["bert", "t5", "clip", "llama"])
def pipe(request, make_rqvae, make_transformer) -> RQImageGenerationPipeline:
    rqvae, fields = make_rqvae(), {"condition_dim": 16, "condition_length": LENGTH}
    transformer = make_transformer("embeds", rqvae, initializer_range=0.3, **fields)
    tokenizer = make_tokenizer(with_padding=request.param != "llama")
    pipe = RQImageGenerationPipeline(rqvae, transformer, tokenizer, make_encoder(request.param))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def codes(pipe, *arguments, **options):
    return pipe(*arguments, output_type="latent", **options).images


def test_a_prompt_gives_what_its_embeds_give_and_a_batch_equals_its_singles(pipe):
    embeds, _ = pipe.encode_prompt(PROMPTS)
    assert embeds.shape == (3, LENGTH, 16)
    lengths = [len(pipe.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    assert [int((row != 0).any(-1).sum()) for row in embeds] == [min(length, LENGTH) for length in lengths]
    ids = pipe.tokenizer(PROMPTS[0], return_tensors="pt").input_ids  # without padding
    torch.testing.assert_close(embeds[0, : ids.shape[1]], pipe.text_encoder(ids).last_hidden_state[0])
    together = codes(pipe, PROMPTS, generator=[seeded(index) for index in range(3)])
    given = codes(pipe, prompt_embeds=embeds, generator=[seeded(index) for index in range(3)])
    assert torch.equal(together, given)
    for index, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(pipe.encode_prompt(prompt)[0][0], embeds[index])
        assert torch.equal(codes(pipe, prompt, generator=seeded(index))[0], together[index])
    assert len(together.flatten(1).unique(dim=0)) == 3


def test_guidance_leads_away_from_a_prompt_or_from_the_null_vector(pipe):
    options = {"guidance_scale": 4.0}
    pipe.transformer.generation_config.do_sample = False
    plain = codes(pipe, "a red heart")
    null = codes(pipe, "a red heart", **options)
    away = codes(pipe, "a red heart", negative_prompt="rocket", **options)
    given = codes(pipe, "a red heart", negative_prompt_embeds=pipe.encode_prompt("rocket")[0], **options)
    assert torch.equal(away, given)
    assert len(torch.cat([plain, null, away]).flatten(1).unique(dim=0)) == 3


@pytest.mark.parametrize("options", [{}, {"negative_prompt": "rocket"}], ids=["null", "negative"])
def test_embeds_of_a_guided_prompt_draw_its_pictures_with_ids_and_with_an_encoder(pipe, make_pipeline, options):
    for each in (pipe, make_pipeline("text")):
        embeds, negative = each.encode_prompt("a red heart", each.device, 2, True, **options)
        expected = codes(
            each, "a red heart", num_images_per_prompt=2, guidance_scale=3.0, generator=seeded(0, 1), **options
        )
        conditions = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
        given = codes(each, guidance_scale=3.0, generator=seeded(0, 1), **conditions)
        assert len(embeds) == 2 and torch.equal(given, expected)


def test_pipelines_with_an_encoder_save_and_load_and_can_be_offloaded(pipe, tmp_path):
    expected = codes(pipe, PROMPTS[0], generator=seeded(0))
    pipe.save_pretrained(tmp_path)
    loaded = RQImageGenerationPipeline.from_pretrained(tmp_path)
    assert type(loaded.text_encoder) is type(pipe.text_encoder)
    assert torch.equal(codes(loaded, PROMPTS[0], generator=seeded(0)), expected)
    assert pipe.model_cpu_offload_seq.endswith("text_encoder->transformer->rqvae")
    without = RQImageGenerationPipeline.from_pretrained(tmp_path, text_encoder=None)
    given = codes(without, prompt_embeds=pipe.encode_prompt(PROMPTS[0])[0], generator=seeded(0))
    assert torch.equal(given, expected)
    with pytest.raises(ValueError, match="`prompt` needs a pipeline with a `tokenizer` and a `text_encoder`"):
        without(PROMPTS[0])
    with pytest.raises(ValueError, match="`negative_prompt_embeds` must be a tensor, got ndarray"):
        pipe(PROMPTS[0], negative_prompt_embeds=pipe.encode_prompt(PROMPTS[0])[0].numpy(), guidance_scale=2.0)


def test_likelihood_ranks_pictures_of_embeds(pipe):
    result = pipe(PROMPTS[0], num_candidates=4, generator=seeded(0), output_type="latent")
    embeds, _ = pipe.encode_prompt(PROMPTS[0])
    likelihoods = pipe.transformer.log_likelihood(codes=result.images, prompt_embeds=embeds)
    torch.testing.assert_close(likelihoods, result.scores)


def test_a_rewriter_replaces_the_ids_of_prompts_and_can_be_turned_off(make_pipeline, tmp_path, capsys):
    pipe = make_pipeline("text")
    size = pipe.transformer.config.vocab_size
    rewriter = BertForMaskedLM(BertConfig(**SIZES | {"vocab_size": size})).eval()
    pipe = RQImageGenerationPipeline(pipe.rqvae, pipe.transformer, pipe.tokenizer, prompt_rewriter=rewriter)
    pipe.set_progress_bar_config(disable=True)
    ids = pipe.tokenizer(["a red heart"], padding="max_length", return_tensors="pt").input_ids
    embed_ids = pipe.transformer.embed_ids
    assert torch.equal(pipe.encode_prompt("a red heart", rewrite_prompt=False)[0], embed_ids(ids))
    said = rewriter(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.argmax(-1)
    assert torch.equal(pipe.encode_prompt("a red heart")[0], embed_ids(said)) and not torch.equal(said, ids)
    assert pipe.rewrite("a red heart") == pipe.tokenizer.decode(said[0], skip_special_tokens=True)
    alone, pipe.candidate_batch_size = [pipe.rewrite(prompt) for prompt in PROMPTS], 2
    pipe.set_progress_bar_config()
    assert pipe.rewrite(PROMPTS[:2]) == alone[:2] and capsys.readouterr().err == ""  # one batch is quick
    assert pipe.rewrite(PROMPTS) == alone and "2/2" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    drawn = codes(pipe, "a red heart", generator=seeded(0))
    assert torch.equal(drawn, pipe.transformer.generate(said, generator=seeded(0)))
    plain = codes(pipe, "a red heart", rewrite_prompt=False, generator=seeded(0))
    assert torch.equal(plain, pipe.transformer.generate(ids, generator=seeded(0)))
    null = torch.tensor([pipe.transformer.config.null_condition_ids])
    assert torch.equal(pipe.encode_prompt("猫犬")[0], embed_ids(null))  # nothing to rewrite
    pipe.save_pretrained(tmp_path)
    loaded = RQImageGenerationPipeline.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode_prompt("a red heart")[0], embed_ids(said))
    off = RQImageGenerationPipeline.from_pretrained(tmp_path, prompt_rewriter=None)
    assert torch.equal(off.encode_prompt("a red heart")[0], embed_ids(ids))


def test_emoji_of_a_prompt_are_read_as_their_names_where_the_tokenizer_has_names(tiny_pipeline, tmp_path):
    names = {"\N{ROCKET}": "rocket", "\N{HEAVY BLACK HEART}": "red heart", "\N{MAN}\u200d\N{ROCKET}": "a cat"}
    prompts = ["a \N{ROCKET}", "\N{HEAVY BLACK HEART}\ufe0f", "\N{MAN}\U0001f3ff\u200d\N{ROCKET}"]
    expected = tiny_pipeline.encode_prompt(["a rocket", "red heart", "a cat"])[0]
    assert not torch.equal(tiny_pipeline.encode_prompt(prompts)[0], expected)
    tiny_pipeline.tokenizer.init_kwargs["emoji_names"] = names
    assert torch.equal(tiny_pipeline.encode_prompt(prompts)[0], expected)
    tiny_pipeline.save_pretrained(tmp_path)
    assert torch.equal(type(tiny_pipeline).from_pretrained(tmp_path).encode_prompt(prompts)[0], expected)
