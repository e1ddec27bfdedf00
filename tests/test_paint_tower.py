"""The small image encoder, trained before a painter: towards what, on what, and what it leaves."""

import sys
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_paint_training import small_config
from tiny_model import tiny_model, write_tiny_model

from models.paint_by_example import PaintByExample
from train.miniature import data
from train.miniature.data import SCENE_KINDS, draw_chunk, load_chunks, load_masks
from train.paint import tower
from train.paint.tower import Captioned, found_again, in_one_token, said_of
from train.world import Look
from weights.load import load_as

SIDE = 64
SINGLE = tuple(float(kind == "single") for kind in SCENE_KINDS)
PAIR = tuple(float(kind == "pair") for kind in SCENE_KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three scenes of one subject, and three of two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "SIZE", SIDE)
        patch.setattr(data, "CHUNK_SIZE", 3)
        found = []
        for shares in (SINGLE, PAIR):
            found.append(tmp_path_factory.mktemp("data"))
            draw_chunk(("small", 5, shares, False, 0, found[-1]))
    return found


@pytest.fixture
def source(folders):
    return Captioned(tiny_model(), *chunks_of(folders), progress=False)


def chunks_of(folders):
    pictures, scenes = load_chunks(folders)
    return pictures, load_masks(folders), scenes


def test_one_token_is_the_mean_of_a_text_s_words():
    model, texts = tiny_model(), ["a photo of a cat", "a photo of a striped red and white cat with a hat"]
    with torch.no_grad():
        states = model.encode_text(texts)
    wanted = [states[0, 1:7].mean(0), states[1, 1:14].mean(0)]  # without the start, with the end
    torch.testing.assert_close(in_one_token(model, texts), torch.stack(wanted)[:, None])


def test_a_subject_s_caption_is_its_own():
    look = Look("cat", "red", "striped", "white", "hat", "blue")
    assert said_of(look) == "a photo of a striped red and white cat with a blue hat"


def test_references_are_of_subjects_alone_in_their_picture(source, folders):
    _, masks, scenes = chunks_of(folders)
    assert [text for *_, text in source.subjects] == [said_of(scene.look) for scene in scenes[:3]]
    references, tokens = source.batch(40, np.random.default_rng(0), 32)
    assert references.shape == (40, 3, 32, 32) and tokens.shape == (40, 1, tiny_model().config.unet.context_channels)
    wanted = in_one_token(tiny_model(), [said_of(scene.look) for scene in scenes[:3]])
    nearest = (tokens[:, None] - wanted).flatten(2).abs().amax(2)
    assert nearest.amin(1).max() < 1e-5 and set(nearest.argmin(1).tolist()) == {0, 1, 2}
    ys, xs = np.nonzero(np.unpackbits(masks[0][1], axis=-1))
    assert source.subjects[1][1] == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_a_subject_that_cannot_be_seen_is_passed_over(folders):
    pictures, masks, scenes = chunks_of(folders)
    hidden = [np.array(masks[0]), masks[1]]
    hidden[0][1] = 0
    source = Captioned(tiny_model(), pictures, hidden, scenes, progress=False)
    assert [text for *_, text in source.subjects] == [said_of(scenes[i].look) for i in (0, 2)]


def test_who_is_nearest_to_the_own_caption_is_found_again():
    """An encoder that knows the answers finds all, one that always says the same finds what that is right about."""
    model, asked = tiny_model(), []

    class Knows:
        config = SimpleNamespace(size=32)

        def __init__(self, tokens):
            self.tokens = iter(tokens)

        def __call__(self, picture):
            asked.append(picture.shape)
            return next(self.tokens)[None]

    looks = [tower.scene_at(tower.WORLDS["small"], tower.STREAMS["held out"], i, True).look for i in range(5)]
    right = in_one_token(model, [said_of(look) for look in looks])
    assert found_again(Knows(right), model, "small", True, 5) == 1
    assert found_again(Knows(right[:1].expand(5, -1, -1)), model, "small", True, 5) == pytest.approx(0.2)
    assert set(asked) == {(1, 3, 32, 32)}


def test_the_command_leaves_an_encoder_to_start_a_painter_from(folders, tmp_path, monkeypatch, capsys):
    write_tiny_model(tmp_path / "tiny.safetensors")
    monkeypatch.setattr(tower, "miniature_painter", lambda _: small_config())
    monkeypatch.setattr(tower, "JUDGED", 2)
    line = ["tower", "--data", *map(str, folders), "--init", str(tmp_path / "tiny.safetensors"), "--device", "cpu"]
    line += ["--batch", "2", "--out", str(tmp_path / "out"), "--steps"]
    for steps in ("2", "4"):  # the second time it goes on
        monkeypatch.setattr(sys, "argv", [*line, steps])
        tower.main()
        assert capsys.readouterr().out.count("are nearest to their own caption") == 2
    painter = load_as(PaintByExample, tmp_path / "out" / "painter.safetensors", "cpu")
    model = tiny_model()
    torch.testing.assert_close(painter.unconditional(), in_one_token(model, [""]))
    assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["step"] == 4
    fresh = tower.start_from(model, small_config(), 0).image_encoder
    changed = [
        name for name, p in painter.image_encoder.named_parameters() if not torch.equal(p, fresh.get_parameter(name))
    ]
    assert {"tower.patches.weight", "proj_out.weight", "tower.layers.0.mlp.0.weight"} & set(changed)


def test_training_brings_pictures_nearer_to_their_captions(source, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(tower, "miniature_painter", lambda _: small_config())
    monkeypatch.setattr(tower, "JUDGED", 1)
    write_tiny_model(tmp_path / "tiny.safetensors")
    numbers = {"seed": 0, "lr": 3e-3, "steps": 40, "minutes": None, "batch": 6, "bf16": False}
    files = {"data": folders, "init": tmp_path / "tiny.safetensors", "out": tmp_path / "out"}
    tower.run(Namespace(**numbers, **files, device="cpu", world="small"))
    references, wanted = source.batch(24, np.random.default_rng(1), 32)
    before = tower.start_from(tiny_model(), small_config(), 0).image_encoder
    after = load_as(PaintByExample, tmp_path / "out" / "painter.safetensors", "cpu").image_encoder
    with torch.no_grad():
        far, near = ((encoder(references) - wanted).square().mean() for encoder in (before, after))
    assert near < 0.3 * far


def test_no_data_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tower", "--data", str(tmp_path), "--device", "cpu"])
    with pytest.raises(SystemExit, match=r"train\.paint\.tower: .* holds no drawn chunks"):
        tower.main()
