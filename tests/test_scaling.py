# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""docs/scaling.md and scripts/configs/accelerate: the numbers of the page are recomputed, and two processes on the CPU
(gloo) shard a model exactly as `accelerate launch --config_file fsdp2.yaml` would."""

import argparse
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from fully_sharded import end_process
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.utils.flop_counter import FlopCounterMode

from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration, RQVAEConfig
from rq_hf.training.sharding import round_weights_alone

ROOT = Path(__file__).resolve().parents[1]
ACCELERATE_FOLDER = ROOT / "scripts" / "configs" / "accelerate"
YAMLS = sorted(ACCELERATE_FOLDER.glob("*.yaml"))
sys.path.append(str(ROOT / "scripts"))

import memory_estimate  # noqa: E402  a script, which imports its neighbour

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
STEPS = 3
# Widths that two processes cannot halve, so that the shards differ.
SMALL = dict(
    vocab_size=11, condition_length=3, code_shape=[2, 3, 3], codebook_size=19, codebook_dim=8, hidden_size=12,
    num_spatial_layers=2, num_depth_layers=1, num_attention_heads=2, intermediate_size=33, dropout=0.0,
)  # fmt: skip


def launch_arguments(path: Path) -> argparse.Namespace:
    """What `accelerate launch --config_file` makes of a file."""
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "train.py"])
    return _validate_launch_command(arguments)[0]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(path):
    load_config_from_file(str(path))  # refuses unknown keys of the first level
    known = {action.dest for action in launch_command_parser()._actions}
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(yaml.safe_load(path.read_text()).get(section, {})) <= known


def test_launch_of_each_file_sets_its_strategy():
    assert [path.stem for path in YAMLS] == ["ddp", "deepspeed-zero3", "fsdp2"]
    ddp, zero3, fsdp2 = (launch_arguments(path) for path in YAMLS)
    assert ddp.multi_gpu and not ddp.use_fsdp and not ddp.use_deepspeed
    assert fsdp2.use_fsdp and prepare_multi_gpu_env(fsdp2)["FSDP_VERSION"] == "2"
    assert {arguments.mixed_precision for arguments in (ddp, zero3, fsdp2)} == {"bf16"}
    zero3.deepspeed_fields_from_accelerate_config = ""  # which the launcher sets on the way
    _, environment = prepare_deepspeed_cmd_env(zero3)
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
    assert environment["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "auto"
    assert environment["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == "false"


def test_wrapped_class_is_the_one_that_the_model_keeps_whole():
    wrapped = yaml.safe_load((ACCELERATE_FOLDER / "fsdp2.yaml").read_text())["fsdp_config"]
    names = wrapped["fsdp_transformer_layer_cls_to_wrap"].split(",")
    model = RQTransformerForImageGeneration(RQTransformerConfig(**SMALL))
    assert set(names) == set(model._no_split_modules)
    assert set(names) <= {type(module).__name__ for module in model.modules()}


def train(model, optimizer, rank: int, processes: int, bf16: bool = False) -> list[torch.Tensor]:
    """Losses of a few steps, each that of the whole batch; a process trains on its own part."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(SMALL["vocab_size"], (4, SMALL["condition_length"]), generator=generator)
    codes = torch.randint(SMALL["codebook_size"], (4, *SMALL["code_shape"]), generator=generator)
    residuals = torch.randn(*codes.shape, SMALL["codebook_dim"], generator=generator)
    input_ids, codes, residuals = (batch.chunk(processes)[rank] for batch in (input_ids, codes, residuals))
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids, codes, residuals=residuals, label_temperature=0.5).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    if processes > 1:
        for loss in losses:
            dist.all_reduce(loss)
    return [loss / processes for loss in losses]


def small_model() -> RQTransformerForImageGeneration:
    torch.manual_seed(0)
    return RQTransformerForImageGeneration(RQTransformerConfig(**SMALL))


def new_optimizer(model) -> torch.optim.Optimizer:
    # The loss does not depend on the biases of the keys: a large eps keeps Adam from blowing their rounding errors up.
    return torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-3)


def local_bytes(tensors) -> int:
    return sum((value.to_local() if isinstance(value, DTensor) else value).nbytes for value in tensors)


def sharded_process(rank: int, folder: Path) -> None:
    """One of two processes of fsdp2.yaml; leaves what it ended with in FOLDER/RANK.pt."""
    torch.set_num_threads(1)
    environment = prepare_multi_gpu_env(launch_arguments(ACCELERATE_FOLDER / "fsdp2.yaml"))
    os.environ.update({name: value for name, value in environment.items() if name.startswith(("FSDP", "ACCELERATE"))})
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=rank, world_size=2)
    # An `Accelerator` on the CPU takes no sharding plugin, so accelerate's own function is called with what it reads.
    state = SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin())
    accelerator = SimpleNamespace(state=state, mixed_precision="no", is_main_process=rank == 0)
    model = fsdp2_prepare_model(accelerator, small_model())
    optimizer = new_optimizer(model)
    result = {"losses": torch.stack(train(model, optimizer, rank, 2)), "weights": local_bytes(model.parameters())}
    result["gradients"] = local_bytes(parameter.grad for parameter in model.parameters())
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    result["adam"] = local_bytes(states)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    result["state_dict"] = get_model_state_dict(model, options=options)
    result |= {f"bf16, {name}": losses for name, losses in rounded_losses(accelerator, rank).items()}
    torch.save(result, folder / f"{rank}.pt")
    end_process()


def rounded_losses(accelerator: SimpleNamespace, rank: int) -> dict[str, torch.Tensor]:
    """Losses under bf16 autocast, with accelerate's own policy and with that of the trainers."""
    plugin = accelerator.state.fsdp_plugin
    losses = {}
    for name in ("accelerate", "rq_hf"):
        plugin.mixed_precision_policy = None
        plugin.set_mixed_precision("bf16")
        if name == "rq_hf":
            round_weights_alone(plugin)
        model = fsdp2_prepare_model(accelerator, small_model())
        losses[name] = torch.stack(train(model, new_optimizer(model), rank, 2, bf16=True))
    return losses


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> list[dict]:
    """What each of two sharded processes ends with."""
    folder = tmp_path_factory.mktemp("scaling")
    multiprocessing.spawn(sharded_process, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def small_recipe() -> memory_estimate.Recipe:
    return memory_estimate.Recipe("small", RQTransformerConfig(**SMALL), None, batch_size=4, checkpointing=False)


def test_a_sharded_process_keeps_the_computed_bytes(together, small_recipe):
    first, second = together
    expected = 4 * small_recipe.shard_elements(2)
    assert (first["weights"], first["gradients"], first["adam"]) == (expected, expected, 2 * expected)
    assert first["weights"] + second["weights"] == 4 * small_recipe.parameters
    assert second["weights"] < first["weights"]


def test_sharded_processes_train_as_one_and_give_its_weights_back(together):
    model = small_model()
    losses = torch.stack(train(model, new_optimizer(model), 0, 1))
    assert losses[-1] < losses[0]
    for process in together:
        torch.testing.assert_close(process["losses"], losses, rtol=1e-5, atol=0)
    state_dict = together[0]["state_dict"]
    assert set(state_dict) == set(model.state_dict())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state_dict[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_sharded_bf16_rounds_neither_loss_nor_labels(together):
    """Against bf16 of one process, whose inputs and outputs of modules autocast leaves in fp32."""
    model = small_model()
    losses = torch.stack(train(model, new_optimizer(model), 0, 1, bf16=True))
    ours, theirs = together[0]["bf16, rq_hf"], together[0]["bf16, accelerate"]
    assert ours.dtype == torch.float32 and theirs.dtype == torch.bfloat16
    assert (ours - losses).abs().max() < 1e-3 * losses.max() < (theirs - losses).abs().max()


def test_a_policy_that_was_chosen_is_left_alone():
    chosen = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, mixed_precision_policy=chosen)
    round_weights_alone(plugin)
    assert plugin.mixed_precision_policy == chosen


def traced_bytes(recipe: memory_estimate.Recipe) -> int:
    """Peak of two training steps of a process alone, told by torch's tracker on tensors without data."""
    config, batch = recipe.config, recipe.batch_size
    with FakeTensorMode():
        model = RQTransformerForImageGeneration(config).train()
        if recipe.checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        input_ids = torch.zeros(batch, config.condition_length, dtype=torch.long)
        codes = torch.zeros(batch, *config.code_shape, dtype=torch.long)
        residuals = torch.zeros(batch, *config.code_shape, config.codebook_dim)
        tracker = MemTracker()
        tracker.track_external(model, optimizer, input_ids, codes, residuals)
        with tracker:
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(input_ids, codes, residuals=residuals, label_temperature=0.5).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
                tracker.reset_mod_stats()
        return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_computed_peak_is_at_most_a_quarter_above_that_of_traced_steps(checkpointing):
    recipe = memory_estimate.Recipe.load(ROOT / "scripts" / "configs" / "cc3m-rqt-8x8x4-654M.json")
    fields = recipe.config.to_diff_dict() | {"num_spatial_layers": 5, "num_depth_layers": 2}
    recipe = replace(recipe, config=RQTransformerConfig(**fields), rqvae=None, checkpointing=checkpointing)
    # Above it, because what is counted as kept at once (bf16 copies, a block of logits, a recomputed block) is not.
    assert 0.99 <= recipe.process_bytes("DDP", 1) / traced_bytes(recipe) <= 1.25


def test_computed_flops_are_those_counted(small_recipe):
    with torch.device("meta"):
        model = small_model().eval()
        input_ids = torch.zeros(1, SMALL["condition_length"], dtype=torch.long)
        codes = torch.zeros(1, *SMALL["code_shape"], dtype=torch.long)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids, codes)
    assert small_recipe.forward_flops == counter.get_total_flops()


def test_a_recipe_that_leaves_its_model_to_the_data_is_refused():
    recipe = ROOT / "scripts" / "configs" / "emoji-rqt-8x8x3-15M.json"
    with pytest.raises(ValueError, match="must state `code_shape`, `codebook_size`, `vocab_size` of its model"):
        memory_estimate.main(["tables", str(recipe)])


def test_measured_peak_of_a_saved_architecture_holds_its_states(tmp_path, capsys):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of the memory is read from /proc")
    config = RQTransformerConfig(**SMALL | {"hidden_size": 256, "intermediate_size": None})
    config.save_pretrained(tmp_path)
    memory_estimate.main(["measure", str(tmp_path), "--batch_size", "2", "--num_spatial_layers", "7"])
    count, measured = re.search(r"([\d,]+) parameters, .*measured ([\d.]+) GB", capsys.readouterr().out, re.S).groups()
    count = int(count.replace(",", ""))
    assert count > 7 * 12 * 256**2
    assert float(measured) > 16 * count / 1e9 - 0.005  # fp32 weights, gradients and Adam's states; printed to 10 MB


def test_the_architecture_of_a_pipeline_is_that_of_its_transformer(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    RQTransformerConfig(**SMALL).save_pretrained(tmp_path / "transformer")
    recipe = memory_estimate.measured_recipe(memory_estimate.parse_arguments(["measure", str(tmp_path)]))
    assert recipe.config.hidden_size == SMALL["hidden_size"]


def test_a_folder_of_an_rqvae_is_refused(tmp_path, tiny_rqvae):
    tiny_rqvae.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`FOLDER` must hold a pipeline or a 'rq_transformer', got a 'rqvae' in"):
        memory_estimate.main(["measure", str(tmp_path)])


def test_the_encoder_of_grey_pictures_is_counted(small_recipe):
    grey = replace(small_recipe, rqvae=RQVAEConfig(num_channels=1), config=RQTransformerConfig(**SMALL))
    assert 0 < grey.encoder_flops < replace(grey, rqvae=RQVAEConfig()).encoder_flops


def test_a_recipe_that_is_no_file_is_refused():
    with pytest.raises(ValueError, match="must be a JSON file, got 'none.json'"):
        memory_estimate.main(["tables", "none.json"])


def test_page_has_the_tables_that_the_recipes_give():
    for table in memory_estimate.tables(memory_estimate.paper_recipes()):
        assert table in PAGE
