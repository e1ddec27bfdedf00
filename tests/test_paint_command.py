"""`photoswap paint`: where by file, box or word, what by reference or prompt; three files, or one sentence."""

import json

import numpy as np
import pytest
import torch
from command_line import files, paint, refused
from golden_paint import CONFIG, FILE
from PIL import Image
from safetensors.torch import save_file
from tiny_model import tiny_painter, write_tiny_model

from models.paint_by_example import PaintByExample
from photoswap.__main__ import main
from train.recogniser import Recogniser
from weights.load import load_as, save


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints that paint by a reference and by a prompt, and one that reads."""
    home = tmp_path_factory.mktemp("models")
    save(load_as(PaintByExample, FILE, dtype="stored", config=CONFIG), home / "example.safetensors")
    save(tiny_painter(), home / "prompt.safetensors")
    write_tiny_model(home / "reader.safetensors")
    return home


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint((160, 128), 0).save("room.png")
    paint((50, 70), 1).save("dog.png")
    mask = Image.new("L", (160, 128))
    mask.paste(255, (40, 30, 110, 100))
    mask.save("mask.png")
    return tmp_path


def by_reference(models, *more):
    return [
        *["paint", "room.png", "--reference", "dog.png", "--steps", "2", "--device", "cpu", "--quiet"],
        *["--model", str(models / "example.safetensors"), *map(str, more)],
    ]


def by_prompt(models, *more):
    return [
        *["paint", "room.png", "--prompt", "a red cat", "--steps", "2", "--device", "cpu", "--quiet"],
        *["--model", str(models / "prompt.safetensors"), *map(str, more)],
    ]


def test_a_reference_is_painted_and_everything_is_recorded(models, home):
    assert main(by_reference(models, "--mask", "mask.png", "--out", "one")) == 0
    assert files(home / "one") == ["grid.png", "paint.json", "result.png"]
    record = json.loads((home / "one" / "paint.json").read_text())
    assert record["settings"] | {"size": None} == {
        **{"steps": 2, "guidance_scale": 5.0, "sampler": "plms", "eta": 0.0, "crop": False, "keep": True},
        **{"size": None, "box": [0, 0, 160, 128]},
    }
    assert record["seeds"] == [0] and record["arguments"]["reference"] == "dog.png"
    result, source = (np.array(Image.open(name)) for name in ("one/result.png", "room.png"))
    outside = np.array(Image.open("mask.png")) == 0
    assert (result == source)[outside].all() and (result != source)[~outside].any(axis=-1).mean() > 0.5


def test_the_same_line_writes_the_same_bytes(models, home):
    for out in ("one", "two"):
        assert main(by_prompt(models, "--mask", "mask.png", "--seed", 3, "--out", out)) == 0
    one, two = ((home / out / "result.png").read_bytes() for out in ("one", "two"))
    assert one == two


def test_a_prompt_is_painted_as_its_script_does(models, home):
    assert main(by_prompt(models, "--mask", "mask.png", "--out", "one")) == 0
    settings = json.loads((home / "one" / "paint.json").read_text())["settings"]
    assert (settings["sampler"], settings["eta"], settings["guidance_scale"]) == ("ddim", 1.0, 7.5)


def test_a_box_is_a_mask(models, home):
    assert main(by_reference(models, "--mask", "mask.png", "--out", "one")) == 0
    assert main(by_reference(models, "--box", 40, 30, 110, 100, "--out", "two")) == 0
    assert (home / "one" / "result.png").read_bytes() == (home / "two" / "result.png").read_bytes()


def test_a_word_is_looked_for_by_a_model_that_reads(models, home):
    reader = models / "reader.safetensors"
    assert main(["mask", "room.png", "--word", "dog", "--model", str(reader), "--quiet", "--out", "found.png"]) == 0
    assert main(by_reference(models, "--mask", "found.png", "--out", "one")) == 0
    assert main(by_reference(models, "--word", "dog", "--word-model", reader, "--out", "two")) == 0
    assert (home / "one" / "result.png").read_bytes() == (home / "two" / "result.png").read_bytes()


def test_several_are_painted_from_one_seed_after_another(models, home):
    assert main(by_reference(models, "--mask", "mask.png", "--count", 2, "--seed", 5, "--out", "one")) == 0
    assert main(by_reference(models, "--mask", "mask.png", "--seed", 6, "--out", "two")) == 0
    assert files(home / "one") == ["grid.png", "paint.json", "result-1.png", "result-2.png"]
    assert (home / "one" / "result-2.png").read_bytes() == (home / "two" / "result.png").read_bytes()
    assert json.loads((home / "one" / "paint.json").read_text())["seeds"] == [5, 6]


def by_method(models, method, *more):
    return [
        *["paint", "room.png", "--mask", "mask.png", "--reference", "dog.png", "--quiet"],
        *["--method", method, *map(str, more)],
    ]


def test_a_reference_is_pasted_without_any_model(models, home):
    assert main(by_method(models, "paste-harmonise", "--out", "one", "--set", "by=reinhard")) == 0
    record = json.loads((home / "one" / "paint.json").read_text())
    assert record["settings"]["by"] == "reinhard" and record["arguments"]["model"] is None
    result, source = (np.array(Image.open(name)) for name in ("one/result.png", "room.png"))
    outside = np.array(Image.open("mask.png")) == 0
    assert (result == source)[outside].all() and (result != source)[~outside].any(axis=-1).mean() > 0.5


@pytest.mark.parametrize("method", ["blended-image", "paste-denoise"])
def test_a_model_that_draws_paints_by_a_method(method, models, home):
    features = models / "eyes.safetensors"
    torch.manual_seed(0)
    save_file(Recogniser().state_dict(), features)
    more = ["--features", features, "--set", "augmentations=2"] if method == "blended-image" else ["--set", "t0=0.9"]
    model = ["--model", models / "reader.safetensors", "--steps", 2, "--device", "cpu"]
    for out in ("one", "two"):
        assert main(by_method(models, method, *model, *more, "--out", out)) == 0
    one, two = ((home / out / "result.png").read_bytes() for out in ("one", "two"))
    assert one == two
    settings = json.loads((home / "one" / "paint.json").read_text())["settings"]
    assert "embed" not in settings and settings["guidance_scale"] == 7.5


@pytest.mark.parametrize(
    ("method", "more", "sentence"),
    [
        ("blended-text", ["--prompt", "a cat"], "--reference changes nothing with --method blended-text"),
        ("blended-image", ["--features", "nowhere.pt"], "no such file of CLIP's weights: nowhere.pt"),
        ("blended-image", ["--features", "room.png"], "room.png does not fit ViT-B-32-quickgelu"),
        ("paste-harmonise", ["--set", "by=magic"], "is of the wrong kind"),
        ("paste-harmonise", ["--reference-mask", "mask.png"], "of another size"),
        ("paste-denoise", ["--guidance", "3"], "changes nothing without --prompt"),
        ("paste-denoise", ["--set", "steps=3"], "say --steps"),
    ],
)
def test_what_a_method_does_not_heed_is_told_in_a_sentence(method, more, sentence, models, home, capsys):
    model = [] if method == "paste-harmonise" else ["--model", models / "reader.safetensors", "--device", "cpu"]
    assert sentence in refused(capsys, *by_method(models, method, *model, *more))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--box", "10", "10", "10", "40"], "is empty"),
        (["--box", "10", "10", "200", "40"], "reaches beyond the picture, which is 160 x 128"),
        (["--mask", "dog.png"], "in colour"),
        (["--mask", "nowhere.png"], "no such picture"),
        (["--mask", "mask.png", "--eta", "0.5"], "changes nothing with plms"),
        (["--mask", "mask.png", "--size", "100"], "multiples of"),
        (["--mask", "mask.png", "--out", "mask.png"], "mask.png"),
        ([], "one of the arguments --mask --box --word is required"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_sentence(more, sentence, models, home, capsys):
    before = files(home)
    assert sentence in refused(capsys, *by_reference(models, *more))
    assert files(home) == before


def test_models_that_are_told_otherwise_are_refused(models, home, capsys):
    line = by_prompt(models, "--mask", "mask.png")
    line[line.index("--model") + 1] = str(models / "example.safetensors")
    assert "told by a picture" in refused(capsys, *line)
    line[line.index("--model") + 1] = str(models / "reader.safetensors")
    assert "draws whole pictures" in refused(capsys, *line)


def test_an_earlier_result_stays_unless_told(models, home, capsys):
    assert main(by_reference(models, "--mask", "mask.png", "--out", "one")) == 0
    capsys.readouterr()
    assert "--overwrite replaces it" in refused(capsys, *by_reference(models, "--mask", "mask.png", "--out", "one"))
    assert main(by_reference(models, "--mask", "mask.png", "--seed", 1, "--out", "one", "--overwrite")) == 0
