"""train.sharding: processes that hold a part of the weights each learn what one does that holds them all."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed.fsdp  # once, rather than in every process
from command_line import LEARN, files
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from test_parallel import environment, in_two, learnt, torchrun
from tiny import unet_inputs
from tiny_model import drawn_model, tiny_config, tiny_model

from models.hooks import Hook, reading
from photoswap.__main__ import main
from train.config import learn_config
from train.learn import learn
from train.parallel import Team
from train.sharding import in_pieces, is_piece, placed_as, put_together, worth_cutting

WHOLE = {"train_text_encoder": True, "accumulate": 2, "gradient_checkpointing": True}


def exact_model():
    """In float64, where a bug does not shrink as rounding does; fewer blocks, since each has a price here."""
    config = tiny_config()
    model = drawn_model(
        replace(config, unet=replace(config.unet, res_blocks=1, attention_levels=(1,))), torch.device("cpu"), 0
    )
    for network in model.networks.values():
        network.double()
    return model


def assert_same_files(one, two, tolerance):
    """Concept and checkpoint of two runs."""
    for name in ("concept.safetensors", "checkpoint.safetensors"):
        ours, theirs = load_file(one / name), load_file(two / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=tolerance, atol=tolerance, msg=f"{name} {key}")


def test_two_processes_of_half_the_weights_learn_what_one_does(tmp_path):
    """Begun by one process, and gone on with by two that hold a half each."""
    exact = {**WHOLE, "model": exact_model, "concept_dtype": "float32", "prior_weight": 0.0}
    one = learnt(tmp_path / "one", 1, 2, 2, **exact)
    two = learnt(tmp_path / "two", 1, 1, 2, **exact) + learnt(tmp_path / "two", 2, 2, 1, True, shards=True, **exact)
    assert two == pytest.approx(one, rel=1e-9)
    assert_same_files(tmp_path / "one", tmp_path / "two", 1e-9)


def masks():
    drawn = []
    for i in range(3):
        drawn.append(Image.new("L", (64, 64)))
        ImageDraw.Draw(drawn[-1]).ellipse((10 + i, 10, 50, 50), fill=255)
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"masks": masks(), "mask_loss": True, "attention_loss": 10.0},
        {"token_steps": 2, "clip": 0.1, "sample_every": 2},
        {"train_text_encoder": False, "bfloat16": True, "model": tiny_model},
    ],
    ids=["with hooks", "the token first, pictures drawn on the way", "the U-Net alone, in bfloat16"],
)
def test_whatever_learning_knows_is_known_in_pieces(tmp_path, more):
    numbers = {**WHOLE, "model": exact_model, "concept_dtype": "float32", **more}
    one = learnt(tmp_path / "one", 1, 3, 2, **numbers)
    two = learnt(tmp_path / "two", 2, 3, 1, shards=True, **numbers)
    rounding = 1e-2 if "bfloat16" in more else 1e-9  # eight bits, in sums of other rows
    assert two == pytest.approx(one, rel=rounding)
    if "bfloat16" not in more:
        assert_same_files(tmp_path / "one", tmp_path / "two", 1e-8)
    for picture in (tmp_path / "one" / "samples").glob("*.png"):
        ours, theirs = (Image.open(tmp_path / run / "samples" / picture.name) for run in ("one", "two"))
        assert ours.tobytes() == theirs.tobytes()
    assert ("sample_every" in more) == (tmp_path / "two" / "samples").exists()


@pytest.mark.slow
def test_a_stopped_run_of_pieces_goes_on_as_if_never_stopped(tmp_path):
    numbers = {**WHOLE, "model": exact_model}
    straight = learnt(tmp_path / "straight", 2, 4, 1, shards=True, **numbers)
    stopped = learnt(tmp_path / "stopped", 2, 2, 1, shards=True, **numbers)
    stopped += learnt(tmp_path / "stopped", 2, 4, 1, True, shards=True, **numbers)
    assert stopped == straight  # bit for bit
    assert_same_files(tmp_path / "straight", tmp_path / "stopped", 0.0)
    others = (
        learnt(tmp_path / "straight", 1, 5, 2, True, **numbers),
        learnt(tmp_path / "stopped", 2, 5, 1, True, **numbers),
    )
    assert others[0] == pytest.approx(others[1], rel=1e-9)  # by one process, and by two that hold all


def check_pieces(team):
    model = exact_model()
    before = {name: p.clone() for name, p in model.unet.named_parameters()}
    numbers = sum(p.numel() for p in before.values())
    x, t, _ = unet_inputs(torch.device("cpu"))
    context = model.encode_text(["a cat", "a dog"])
    site, seen, again = model.unet.sites[3], [], []
    expected = model.unet(x.double(), t, context, hooks={site: Hook(map=reading(seen.append))})
    with in_pieces(model, ["unet"]) as pieces:
        assert pieces.unet is not model.unet and pieces.text_encoder is model.text_encoder
        held = sum(p.to_local().numel() for p in pieces.unet.parameters())
        sizes = team.gather(held)
        assert sum(sizes) == numbers and max(sizes) < 0.52 * numbers  # a first dimension may be odd
        found = pieces.unet(x.double(), t, context, hooks={site: Hook(map=reading(again.append))})
        assert torch.equal(found, expected) and torch.equal(seen[0], again[0])
        weight = pieces.unet.get_parameter("conv_in.weight")
        assert is_piece(weight) and not is_piece(before["conv_in.weight"])
        assert torch.equal(put_together(weight), before["conv_in.weight"])
        shape_alone = put_together(weight, keep=False)
        assert shape_alone.device.type == "meta" and shape_alone.shape == weight.shape
        cut = placed_as(before["conv_in.weight"], weight)
        assert torch.equal(cut.to_local(), weight.to_local()) and placed_as(cut, before["conv_in.weight"]) is cut
        with torch.no_grad():
            weight.add_(1)
    for name, parameter in model.unet.named_parameters():
        assert torch.equal(parameter, before[name]) and not is_piece(parameter)


def test_each_process_holds_its_part_and_the_model_stays_as_it_was():
    in_two(check_pieces, shards=True)


def test_what_is_cut_up():
    model = tiny_model()
    every = {f"{part}.{name}" for part, net in model.networks.items() for name, _ in net.named_parameters()}
    assert worth_cutting(model.networks, every) == ["unet", "text"]
    assert worth_cutting(model.networks, every - {"unet.conv_in.bias"}) == ["text"]
    assert Team(0, 2).cut(model, every) == []
    with pytest.raises(ValueError, match="leave shard out"):
        Team(0, 2, shards=True).cut(model, {"unet.down.0.attn2.to_k.weight"})


def test_one_process_does_not_shard(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="start several with torchrun"):
        Team.join(torch.device("cpu"), shards=True)


def test_what_learns_in_few_weights_is_refused_before_anything_is_drawn(tmp_path):
    config = learn_config("lora", "sd21", "cat", class_pictures=2)
    with pytest.raises(ValueError, match="by this method few weights learn"):
        learn(tiny_model(), [Image.new("RGB", (64, 64))], config, tmp_path / "out", team=Team(0, 2, shards=True))
    assert not (tmp_path / "out").exists()


def test_small_moments_are_not_cut(tmp_path):
    config = learn_config("dreambooth", "sd21", "cat", moments="8bit")
    with pytest.raises(ValueError, match="leave shard or moments out"):
        learn(tiny_model(), [Image.new("RGB", (64, 64))], config, tmp_path / "out", team=Team(0, 2, shards=True))


@pytest.mark.slow
def test_the_command_in_pieces(tiny, pictures, tmp_path):
    learn = ["learn", str(pictures / "references"), *LEARN, *tiny, "--batch"]
    assert main([*learn, "2", "--out", str(tmp_path / "one")]) == 0
    command = [*torchrun(2), "-m", "photoswap", *learn, "1", "--shard", "--out", str(tmp_path / "two")]
    subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=True)
    one, two = (load_file(tmp_path / name / "concept.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-6)  # two steps at 1e-6
    alone = [sys.executable, "-m", "photoswap", *learn, "1", "--shard", "--out", str(tmp_path / "three")]
    run = subprocess.run(alone, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode == 2 and "start several with torchrun" in run.stderr and not files(tmp_path / "three")
