"""train.paint: the official loss and gradients, what learns, resuming, and several processes."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_paint import CONFIG, SINGLE, golden_painter, paint_golden
from test_parallel import environment, torchrun
from tiny_model import tiny_config, tiny_model

from models.config import VisionConfig
from models.paint_by_example import PaintByExample
from train.paint import PaintTraining, miniature_painter, painting_loss, start_from, what_learns
from train.paint.examples import WorldPictures
from train.paint.learn import PAINT_CHECKPOINT, PAINTER_FILE, train_painter
from weights.load import load_as

ROOT = Path(__file__).parent.parent
GRADIENTS = {
    "unet.conv_in.weight": "train.grad.model.diffusion_model.input_blocks.0.0.weight",
    "image.proj_out.bias": "train.grad.proj_out.bias",
}


def golden_loss(painter, device, empty):
    latents, rest = paint_golden("image.latent", device), paint_golden("masked.latent", device)
    keep = paint_golden("mask.bilinear", device)
    pixels = paint_golden("reference.pixels", device)
    references = torch.cat([pixels, pixels.flip(-1)])
    t, noise = paint_golden("train.timestep", torch.device("cpu")), paint_golden("train.noise", device)
    rows = (one.expand(2, -1, -1, -1) for one in (latents, rest, keep))
    return painting_loss(painter, *rows, references, t, noise, empty).mean()


@pytest.fixture
def painter(device):
    model = golden_painter(device)
    for network in model.networks.values():
        network.requires_grad_(True)
    return model


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_loss_and_gradients_are_the_official_ones(painter, device):
    """At most 4.5e-6; a second implementation was 4e-6 away."""
    loss = golden_loss(painter, device, empty=False)
    loss.backward()
    assert relative(loss.detach(), paint_golden("train.loss", device)) < SINGLE
    learning = what_learns(painter, train_tower=False)
    for name, key in GRADIENTS.items():
        assert relative(learning[name].grad, paint_golden(key, device)) < SINGLE, name
    attention = painter.image_encoder.mapper[0].attn
    stored = paint_golden("train.grad.cond_stage_model.mapper.resblocks.0.attn.c_qkv.weight", device)
    found = torch.cat([getattr(attention, f"to_{x}").weight.grad for x in "qkv"])
    assert relative(found, stored) < SINGLE
    assert found[: 2 * CONFIG.image.width].abs().max() < 1e-8  # one token: only values have a say


def test_the_empty_token_learns_when_there_is_no_reference(painter, device):
    loss = golden_loss(painter, device, empty=True)
    loss.backward()
    assert relative(loss.detach(), paint_golden("train.empty.loss", device)) < SINGLE
    stored = paint_golden("train.empty.grad.learnable_vector", device)
    assert relative(painter.image_encoder.empty.grad, stored) < SINGLE
    assert painter.image_encoder.proj_out.bias.grad is None


def small_config():
    image = VisionConfig(
        width=32,
        heads=2,
        layers=1,
        size=32,
        patch=8,
        mapper_blocks=1,
        context_channels=tiny_config().unet.context_channels,
    )
    return replace(miniature_painter(tiny_config()), name="tiny-paint", image=image)


@pytest.fixture
def small():
    return start_from(tiny_model(), small_config(), seed=1)


def test_at_first_a_painter_does_what_its_base_does(small):
    """The five new channels start from zero: whatever stands there changes nothing."""
    base = tiny_model()
    latents, context = torch.randn(2, 4, 16, 16), torch.randn(2, 1, base.config.unet.context_channels)
    with torch.no_grad():
        wanted = base.unet(latents, 500, context)
        found = small.unet(torch.cat([latents, torch.randn(2, 5, 16, 16)], dim=1), 500, context)
    assert (found - wanted).abs().max() < 1e-5
    assert torch.equal(small.unet.conv_in.weight[:, :4], base.unet.conv_in.weight)
    assert not small.unet.conv_in.weight[:, 4:].any()


def test_a_base_of_another_shape_is_refused(small):
    with pytest.raises(ValueError, match="4 to 9"):
        start_from(small, small_config())
    wider = replace(small_config(), unet=replace(small_config().unet, res_blocks=2))
    with pytest.raises(ValueError, match="cannot start from"):
        start_from(tiny_model(), wider)


TRAINING = PaintTraining(steps=3, batch=2, learning_rate=1e-3, warm=2, size=64)
SOURCE = WorldPictures(side=64)


def tensors(model):
    return {f"{n}.{k}": t.clone() for n, net in model.networks.items() for k, t in net.state_dict().items()}


def test_what_is_not_to_learn_stays_bit_for_bit(small, tmp_path):
    before = tensors(small)
    train_painter(small, SOURCE, TRAINING, tmp_path, progress=False)
    moved = {name for name, tensor in tensors(small).items() if not torch.equal(tensor, before[name])}
    assert all(name.startswith(("unet.", "image.")) and not name.startswith("image.tower.") for name in moved)
    assert {"unet.conv_in.weight", "image.proj_out.weight"} <= moved
    written = load_as(PaintByExample, tmp_path / PAINTER_FILE)
    assert all(torch.equal(tensor, tensors(small)[name]) for name, tensor in tensors(written).items())


def test_a_tower_drawn_at_random_learns_where_it_is_told_to(small, tmp_path):
    before = tensors(small)
    train_painter(small, SOURCE, replace(TRAINING, train_tower=True, unconditional=0.0), tmp_path, progress=False)
    after = tensors(small)
    assert not torch.equal(after["image.tower.patches.weight"], before["image.tower.patches.weight"])


@pytest.mark.parametrize("interrupted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_resumed_it_is_as_if_never_stopped(interrupted, tmp_path):
    complete = start_from(tiny_model(), small_config(), seed=1)
    losses = train_painter(complete, SOURCE, TRAINING, tmp_path / "one", progress=False).losses
    halved = start_from(tiny_model(), small_config(), seed=1)

    def stop(step, loss):
        if interrupted and step == 2:
            raise KeyboardInterrupt

    first = TRAINING if interrupted else replace(TRAINING, steps=2)
    try:
        train_painter(halved, SOURCE, first, tmp_path / "two", progress=False, on_step=stop)
    except KeyboardInterrupt:
        assert interrupted and not (tmp_path / "two" / PAINTER_FILE).exists()
    again = start_from(tiny_model(), small_config(), seed=1)
    rest = train_painter(again, SOURCE, TRAINING, tmp_path / "two", resume=True, progress=False).losses
    assert rest == losses[2:]
    assert all(torch.equal(tensor, tensors(again)[name]) for name, tensor in tensors(complete).items())


def test_another_run_s_checkpoint_is_refused(small, tmp_path):
    train_painter(small, SOURCE, replace(TRAINING, steps=1), tmp_path, progress=False)
    with pytest.raises(ValueError, match="has a run to go on from"):
        train_painter(small, SOURCE, TRAINING, tmp_path, progress=False)
    with pytest.raises(ValueError, match="begun otherwise: batch was 2 and is 4"):
        fresh = start_from(tiny_model(), small_config(), seed=1)
        train_painter(fresh, SOURCE, replace(TRAINING, batch=4), tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match="another model"):
        other = start_from(tiny_model(1), small_config(), seed=1)
        train_painter(other, SOURCE, TRAINING, tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match="no run to resume"):
        train_painter(small, SOURCE, TRAINING, tmp_path / "nowhere", resume=True, progress=False)


def test_rows_made_ahead_are_the_same_rows(small, tmp_path):
    here = train_painter(small, SOURCE, replace(TRAINING, steps=2), tmp_path / "one", progress=False).losses
    again = start_from(tiny_model(), small_config(), seed=1)
    ahead = train_painter(again, SOURCE, replace(TRAINING, steps=2), tmp_path / "two", progress=False, makers=1).losses
    assert here == ahead


def test_a_run_from_before_a_setting_was_there_goes_on(small, tmp_path):
    train_painter(small, SOURCE, replace(TRAINING, steps=1), tmp_path, progress=False)
    state = torch.load(tmp_path / PAINT_CHECKPOINT, weights_only=True)
    settings = json.loads(state["settings"])
    assert (settings.pop("kept"), settings.pop("cool")) == (0, 0)
    torch.save({**state, "settings": json.dumps(settings)}, tmp_path / PAINT_CHECKPOINT)
    fresh = start_from(tiny_model(), small_config(), seed=1)
    with pytest.raises(ValueError, match="; cool was 0 and is 1;"):
        train_painter(fresh, SOURCE, replace(TRAINING, cool=1), tmp_path, resume=True, progress=False)
    assert train_painter(fresh, SOURCE, TRAINING, tmp_path, resume=True, progress=False).steps == 3


def test_the_rate_rises_in_a_line():
    training = PaintTraining(learning_rate=1e-5, warm=10)
    assert training.rate(0) == pytest.approx(1e-11) and training.rate(5) == pytest.approx(5e-6, rel=1e-5)
    assert training.rate(10) == training.rate(1000) == pytest.approx(1e-5)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"unconditional": 1.0}, {"learning_rate": 0.0}, {"warm": -1}])
def test_numbers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="want"):
        PaintTraining(**wrong)


SHARED = """
import sys
from test_paint_training import SOURCE, TRAINING, small_config, start_from, tiny_model, train_painter
from dataclasses import replace
model = start_from(tiny_model(), small_config(), seed=1)
steps, how = int(sys.argv[2]), {"resume": "resume" in sys.argv, "shards": "shards" in sys.argv, "progress": False}
found = train_painter(model, SOURCE, replace(TRAINING, steps=steps), sys.argv[1], **how)
weights = sum(p.double().sum().item() for net in model.networks.values() for p in net.parameters())
print("losses", *map(repr, found.losses), weights, flush=True)
"""


SLOW = pytest.mark.slow


def losses_of_two(code, home, *arguments):
    """Run code in two processes with these arguments. Of each, as text, what it printed after the word losses."""
    script = home / "shared.py"
    script.write_text(code)
    places = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [*torchrun(2), str(script), *map(str, arguments)]
    ended = subprocess.run(command, env=environment() | places, capture_output=True, text=True, check=True)
    return [line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("losses")]


@pytest.mark.parametrize("first", ["shards", pytest.param("whole", marks=SLOW)])
@pytest.mark.parametrize("then", ["whole", pytest.param("shards", marks=SLOW)])
def test_two_processes_learn_what_one_does(first, then, small, tmp_path):
    """Losses within 1e-6 of one process's, stopped and resumed included, with the U-Net in pieces and without."""
    alone = train_painter(small, SOURCE, TRAINING, tmp_path / "one", progress=False).losses
    out, found = tmp_path / "two", []
    for steps, *how in ((1, first), (3, then, "resume")):
        lines = losses_of_two(SHARED, tmp_path, out, steps, *how)
        assert len(lines) == 2 and lines[0] == lines[1]
        found += map(float, lines[0][:-1])
    assert found == pytest.approx(alone, rel=1e-6)
    written = tensors(load_as(PaintByExample, out / PAINTER_FILE))
    for name, tensor in tensors(small).items():
        of_one_token = ".attn2.to_" in name or ".mapper." in name
        if not (of_one_token and any(f".to_{part}." in name for part in "qk")):  # rounding alone moves those
            torch.testing.assert_close(written[name], tensor, rtol=1e-4, atol=1e-4, msg=name)  # steps of up to 1e-3
    assert float(lines[0][-1]) == pytest.approx(sum(t.double().sum().item() for t in written.values()), abs=1e-6)
    assert (out / PAINT_CHECKPOINT).exists()


def test_one_process_does_not_shard(small, tmp_path):
    with pytest.raises(ValueError, match="start several with torchrun"):
        train_painter(small, SOURCE, TRAINING, tmp_path, shards=True, progress=False)
    assert not list(tmp_path.iterdir())
