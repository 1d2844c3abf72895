# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The RQ-Transformer: its formulas written out, what depends on what, losses, checkpointing, precision, vocabulary."""

import math

import pytest
import torch
import torch.nn.functional as F

from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration, RQTransformerOutput, soft_code_probabilities
from rq_hf.models import depth_decoder
from rq_hf.models.residual_quantizer import row_blocks

HEIGHT, WIDTH, DEPTH, SIZE = 2, 3, 3, 32  # of the tiny models
SHARED_AND_SEPARATE = pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])


def make_inputs(model, batch_size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Random conditions and codes."""
    config = model.config
    input_ids = torch.randint(config.vocab_size, (batch_size, config.condition_length))
    return input_ids, torch.randint(config.codebook_size, (batch_size, *config.code_shape))


def make_condition(model, batch_size: int = 2) -> dict[str, torch.Tensor]:
    """Random conditions. Vectors of a text encoder are zeros at the end of the first row; one has a single zero."""
    if model.config.condition_dim is None:
        return {"input_ids": make_inputs(model, batch_size)[0]}
    embeds = torch.randn(batch_size, model.config.condition_length, model.config.condition_dim)
    embeds[0, 2:] = embeds[-1, 1, 0] = 0
    return {"prompt_embeds": embeds}


def make_residuals(model, codes: torch.Tensor) -> torch.Tensor:
    """Vectors near those of the codes, so that soft labels differ from code to code."""
    vectors = model.codebook(codes)
    return vectors + 0.5 * torch.randn(vectors.shape)


def books(model) -> list[torch.Tensor]:
    weight = model.codebook.weight
    return [weight[depth if len(weight) > 1 else 0] for depth in range(DEPTH)]


def attend_and_transform(block, tokens, causal: bool = True):
    """One block, token by token: `(length, n_e)`."""
    attention, heads = block.attention, block.attention.config.num_attention_heads
    queries, keys, values = attention.query_key_value(block.attention_norm(tokens)).chunk(3, dim=-1)
    outputs = []
    for position in range(len(tokens)):
        per_head = []
        for query, key, value in zip(*(each.chunk(heads, dim=-1) for each in (queries, keys, values)), strict=True):
            end = position + 1 if causal else len(tokens)
            scores = key[:end] @ query[position] / math.sqrt(len(query[position]))
            per_head.append(scores.softmax(0) @ value[:end])
        outputs.append(torch.cat(per_head))
    tokens = tokens + attention.out_proj(torch.stack(outputs))
    hidden = block.mlp[0](block.mlp_norm(tokens))
    return tokens + block.mlp[2](hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def condition_tokens(model, input_ids=None, prompt_embeds=None):
    """Conditions before their positions: embeddings of ids, or mapped vectors and the null vector for zeros."""
    if prompt_embeds is None:
        return model.condition_embedding.weight[input_ids]
    linear, null = model.condition_projection.linear, model.condition_projection.null
    return torch.stack([linear(vector) if vector.any() else null for vector in prompt_embeds])


def naive_logits(model, condition, codes):
    """Section 3.2 for one picture: logits `(T, D, K)`, text logits `(S - 1, vocab_size)`."""
    codes = codes.reshape(-1, DEPTH)
    vectors = torch.stack([torch.stack([books(model)[d][row[d]] for d in range(DEPTH)]) for row in codes])
    tokens = condition_tokens(model, **condition) + model.condition_positions.weight
    tokens, length = list(tokens), len(tokens)
    for position in range(len(codes) - 1):
        projected = model.spatial_projection(vectors[position].sum(0))
        tokens.append(projected + model.spatial_positions.weight[position])
    tokens = torch.stack(tokens)
    for block in model.spatial_transformer.blocks:
        tokens = attend_and_transform(block, tokens)
    logits = []
    for position in range(len(codes)):
        stack = [tokens[length - 1 + position]]
        stack += [model.depth_decoder.projection(vectors[position, :depth].sum(0)) for depth in range(1, DEPTH)]
        states = torch.stack(stack) + model.depth_decoder.positions.weight
        for block in model.depth_decoder.transformer.blocks:
            states = attend_and_transform(block, states)
        logits.append(model.depth_decoder.head.linear(model.depth_decoder.head.norm(states)))
    text_logits = None
    if model.text_head is not None:
        text_logits = model.text_head.linear(model.text_head.norm(tokens[: length - 1]))
    return torch.stack(logits), text_logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["text", "embeds", "class", "none"])
@SHARED_AND_SEPARATE
def test_forward_equals_the_formulas_written_out(make_transformer, kind, shared, attention):
    model = make_transformer(kind, shared_codebook=shared, attn_implementation=attention)
    assert (model.text_head is not None) == (kind == "text")
    condition, codes = make_condition(model), make_inputs(model)[1]
    output = model(codes=codes, **condition)
    assert isinstance(output, RQTransformerOutput)
    assert output.loss is None and output.image_loss is None and output.text_loss is None  # there are no targets
    assert output.logits.shape == (2, HEIGHT, WIDTH, DEPTH, SIZE) and output.logits.std() > 0.1
    for index in range(2):
        row = {name: values[index] for name, values in condition.items()}
        logits, text_logits = naive_logits(model, row, codes[index])
        torch.testing.assert_close(output.logits[index].flatten(0, 1), logits, rtol=0, atol=2e-5)
        if text_logits is None:
            assert output.text_logits is None
        else:
            torch.testing.assert_close(output.text_logits[index], text_logits, rtol=0, atol=2e-5)


def test_the_default_model_has_654_million_parameters():
    with torch.device("meta"):
        model = RQTransformerForImageGeneration(RQTransformerConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(654.062, abs=5e-4)
    assert [name for name, _ in model.named_buffers()] == ["depth_decoder.codebook.weight"]


@SHARED_AND_SEPARATE
def test_a_code_never_depends_on_itself_or_on_later_ones(make_transformer, shared):
    model = make_transformer(shared_codebook=shared)
    input_ids, codes = make_inputs(model, 1)
    before = model(input_ids, codes).logits.flatten(1, 2)  # (1, T, D, K)
    for position in range(HEIGHT * WIDTH):
        for depth in range(DEPTH):
            changed = codes.clone()
            changed.view(1, -1, DEPTH)[0, position, depth] += 1
            changed %= SIZE
            differs = (model(input_ids, changed).logits.flatten(1, 2) - before).abs().amax(-1)[0] > 1e-5  # (T, D)
            expected = torch.zeros_like(differs)
            expected[position, depth + 1 :] = True  # finer codes of the position
            expected[position + 1 :] = True
            assert torch.equal(differs, expected), (position, depth)


def test_the_loss_is_cross_entropy_weighs_the_text_and_reaches_every_parameter(tiny_transformer):
    model = tiny_transformer
    input_ids, codes = make_inputs(model)
    output = model(input_ids, codes, labels=codes)
    assert output.logits is None  # which are large
    image = -model(input_ids, codes).logits.log_softmax(-1).gather(-1, codes[..., None]).mean()
    torch.testing.assert_close(output.image_loss, image)
    if model.config.condition_length == 1:
        assert model.text_head is None and output.text_loss is None
        torch.testing.assert_close(output.loss, image)
    else:
        assert model.config.text_loss_weight == 0.1
        torch.testing.assert_close(output.loss, 0.9 * image + 0.1 * output.text_loss)
    output.loss.backward()
    assert [name for name, each in model.named_parameters() if each.grad is None] == []
    assert not model.codebook.weight.requires_grad


@pytest.mark.parametrize("output_logits", [False, True])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_codes_without_a_label_do_not_count(make_transformer, output_logits, with_gradients):
    model = make_transformer("none")
    input_ids, codes = make_inputs(model)
    labels = codes.clone()
    labels[0, :, :, 1] = labels[1, 0] = -100
    with torch.set_grad_enabled(with_gradients):
        output = model(input_ids, codes, labels=labels, output_logits=output_logits)
        logits = model(input_ids, codes).logits
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    torch.testing.assert_close(output.image_loss, losses[labels != -100].mean())
    expected = torch.stack([losses[..., d][labels[..., d] != -100].mean() for d in range(labels.shape[-1])])
    torch.testing.assert_close(output.depth_losses, expected, check_dtype=False)


def test_the_text_loss_leaves_padding_out_if_it_is_told_which(make_transformer):
    model = make_transformer("text")
    input_ids = torch.tensor([[5, 9, 7, 0, 0, 0], [3, 4, 5, 6, 7, 0]])
    codes = make_inputs(model)[1]
    output = model(input_ids, codes, labels=codes)
    losses = -output.text_logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]  # (2, 5)
    torch.testing.assert_close(output.text_loss, (losses[0, :2].sum() + losses[1, :4].sum()) / 6)
    model.config.pad_token_id = None
    torch.testing.assert_close(model(input_ids, codes, labels=codes).text_loss, losses.mean())
    model.config.pad_token_id = 0
    assert model(torch.zeros_like(input_ids), codes, labels=codes).text_loss == 0  # a row of padding


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_several_tokens_after_cached_ones_are_read_as_in_one_pass(make_transformer, attention):
    stack = make_transformer(attn_implementation=attention).spatial_transformer
    tokens = torch.randn(2, 7, 32)
    caches = stack.new_caches(3, 7, tokens)  # a row more than there are
    parts = [stack(tokens[:, start:end], caches, start) for start, end in ((0, 2), (2, 5), (5, 6), (6, 7))]
    torch.testing.assert_close(torch.cat(parts, dim=1), stack(tokens), rtol=1e-4, atol=1e-4)


@SHARED_AND_SEPARATE
@pytest.mark.parametrize("temperatures", [2.0, [3.0, 1.0, 0.5]])
def test_all_kinds_of_target_agree(make_transformer, shared, temperatures, monkeypatch):
    model = make_transformer(shared_codebook=shared)
    input_ids, codes = make_inputs(model)
    labels, residuals = make_inputs(model)[1], make_residuals(model, codes)
    one_hot = F.one_hot(labels, SIZE).float()
    taus = temperatures if isinstance(temperatures, list) else [temperatures] * DEPTH
    soft = torch.stack(
        [soft_code_probabilities(residuals[..., d, :], books(model)[d], taus[d]) for d in range(DEPTH)], dim=-2
    )
    assert 0.1 < soft.amax(-1).mean() < 0.9
    from_residuals = dict(residuals=residuals, label_temperature=temperatures)
    pairs = [(dict(labels=labels), dict(labels=one_hot)), (dict(labels=soft), from_residuals)]

    def losses_and_gradients(blocks_of, **targets):
        monkeypatch.setattr(depth_decoder, "LOGIT_BLOCK_ELEMENTS", blocks_of * DEPTH * SIZE)
        model.zero_grad()
        output = model(input_ids, codes, **targets)
        output.loss.backward()
        return output.image_loss, {name: each.grad.clone() for name, each in model.named_parameters()}, output.logits

    for hard, other in pairs:
        expected_loss, expected, _ = losses_and_gradients(2**20, **hard)
        for blocks_of in (2**20, 5, 1):
            for targets in (hard, other):
                for output_logits in (False, True):
                    loss, gradients, logits = losses_and_gradients(blocks_of, **targets, output_logits=output_logits)
                    torch.testing.assert_close(loss, expected_loss)
                    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)
                    assert (logits is not None) is output_logits
            if blocks_of == 5:
                assert len(row_blocks(2 * HEIGHT * WIDTH, DEPTH * SIZE, blocks_of * DEPTH * SIZE)) == 3


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradient_checkpointing_recomputes_and_changes_nothing(make_transformer):
    model = make_transformer(dropout=0.3).train()
    input_ids, codes = make_inputs(model)
    calls, gradients = [], []
    for block in (model.spatial_transformer.blocks[0], model.depth_decoder.transformer.blocks[1]):
        block.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for expected_calls in (2, 6):
        torch.manual_seed(3)  # the dropout
        model.zero_grad()
        model(input_ids, codes, labels=codes).loss.backward()
        gradients.append({name: each.grad.clone() for name, each in model.named_parameters()})
        assert len(calls) == expected_calls
        model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_about_the_same_logits(make_transformer, tmp_path, dtype):
    model = make_transformer(initializer_range=0.1)
    input_ids, codes = make_inputs(model)
    residuals = make_residuals(model, codes)
    expected = model(input_ids, codes, residuals=residuals, label_temperature=0.5, output_logits=True)
    model.save_pretrained(tmp_path)
    half = RQTransformerForImageGeneration.from_pretrained(tmp_path, dtype=dtype)
    output = half(input_ids, codes, residuals=residuals, label_temperature=0.5, output_logits=True)
    assert half.dtype == output.logits.dtype == dtype and output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits.float(), expected.logits, rtol=0, atol=0.05)
    torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=0.02)


def test_set_codebook_copies_and_refuses_another_shape(make_transformer, tiny_rqvae):
    model = make_transformer("none", tiny_rqvae)
    assert torch.equal(model.codebook.weight, tiny_rqvae.codebook)
    assert model.codebook.weight.data_ptr() != tiny_rqvae.codebook.data_ptr()
    for shape in [(3, SIZE, 8), (SIZE, 8), (1, SIZE + 1, 8)]:
        with pytest.raises(ValueError, match=r"`codebook` must have shape \(1, 32, 8\), got \("):
            model.set_codebook(torch.zeros(shape))


IDS, CODES = torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, HEIGHT, WIDTH, DEPTH, dtype=torch.long)
RESIDUALS = torch.zeros(2, HEIGHT, WIDTH, DEPTH, 8)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(codes=CODES.transpose(1, 2)), r"`codes` must have shape \(2, 2, 3, 3\), got \(2, 3, 2, 3\)"),
        (dict(codes=CODES[..., :2]), r"`codes` must have shape .*, got \(2, 2, 3, 2\)"),
        (dict(input_ids=IDS[:, :-1]), r"`input_ids` must have shape \(2, 6\), got \(2, 5\)"),
        (dict(labels=CODES.permute(0, 3, 1, 2)), r"`labels` must have shape .* or .*, got \(2, 3, 2, 3\)"),
        (dict(residuals=RESIDUALS[..., 0]), r"`residuals` must have shape .*, got \(2, 2, 3, 3\)"),
        (dict(labels=CODES, residuals=RESIDUALS), "`labels` and `residuals` exclude each other"),
        (dict(residuals=RESIDUALS), "`residuals` need a `label_temperature`, got None"),
        (dict(residuals=RESIDUALS, label_temperature=[None] * DEPTH), "`residuals` need a `label_temperature`"),
        (dict(residuals=RESIDUALS, label_temperature=[2.0]), r"a list of one per depth \(\d\), got \[2.0\]"),
        (dict(residuals=RESIDUALS, label_temperature=0.0), "`label_temperature` must be greater than 0, got 0.0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(make_transformer, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_transformer()(**dict(input_ids=IDS, codes=CODES) | arguments)
