"""train.miniature.judge: what is asked of samples, and that right answers are counted."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_model import tiny_model

from models.images import to_tensor
from train.miniature import judge as command
from train.miniature.data import STREAMS
from train.miniature.judge import ASKED, SHARES_TOLD, carry, coat_of, fresh_scenes, hits
from train.recogniser import ATTRIBUTES, Recogniser, Seen
from train.world import SMALL, caption, render
from weights.load import save


class Oracle:
    """Says of a picture what the scene drawn in it shows; of any other, what the first scene shows."""

    def __init__(self, scenes):
        self.scenes = {render(scene).image.tobytes(): scene for scene in scenes}
        self.first = scenes[0]

    def __call__(self, recogniser, pictures):
        found = [self.scenes.get(picture.tobytes(), self.first) for picture in pictures]
        return [seen(scene) for scene in found]


def seen(scene, **otherwise):
    """What a recogniser says that is sure of everything."""
    look = scene.look
    values = {"species": look.species, "colour": look.colour, "pattern": look.pattern, "second": look.second}
    values |= {"place": scene.place, "accessory": look.accessory or "none", "accessory_colour": look.accessory_colour}
    values |= {"facing": "left", "light": scene.light} | otherwise
    return Seen({name: tuple(float(v == values[name]) for v in all_) for name, all_ in ATTRIBUTES.items()}, {})


def test_hits_are_counted_for_each_question_and_for_all(monkeypatch):
    scenes = fresh_scenes("small", 8, unseen=False)
    monkeypatch.setattr(command, "recognise_subjects", Oracle(scenes))
    drawn = [render(scene).image for scene in scenes]
    assert hits(None, drawn, scenes) == dict.fromkeys(SHARES_TOLD, 1.0)
    wrong = hits(None, drawn[::-1], scenes)
    colours = [scene.look.colour for scene in scenes]
    assert wrong["colour"] == pytest.approx(sum(a == b for a, b in zip(colours, colours[::-1], strict=True)) / 8)
    assert wrong["all four"] <= min(wrong[name] for name in ASKED)
    assert wrong["all four so"] <= min(wrong["colours in either order"], wrong["species"], wrong["pattern"])


def test_colours_count_in_their_order_and_in_either(monkeypatch):
    scene = next(s for s in fresh_scenes("small", 30, unseen=False) if s.look.pattern == "checkered")
    look = scene.look
    third = next(colour for colour in ATTRIBUTES["colour"] if colour not in (look.colour, look.second))
    plain = replace(scene, look=replace(look, pattern="plain"))
    answers = [
        seen(scene),
        seen(scene, colour=look.second, second=look.colour),
        seen(scene, second=third),
        seen(scene, pattern="plain"),
        seen(plain, second=third),
    ]
    monkeypatch.setattr(command, "recognise_subjects", lambda *_: answers)
    found = hits(None, [None] * 5, [scene] * 4 + [plain])
    assert found["colour"] == pytest.approx(4 / 5) and found["all four"] == pytest.approx(3 / 5)
    assert found["colours in either order"] == found["all four so"] == pytest.approx(3 / 5)


def test_a_coat_is_the_likeliest_pair_of_two_colours():
    names = ATTRIBUTES["colour"]
    unsure = (0.6, 0.4) + (0.0,) * (len(names) - 2)
    sure = seen(fresh_scenes("small", 1, unseen=False)[0], pattern="striped").probabilities
    assert coat_of(Seen(sure | {"colour": unsure, "second": unsure}, {})) == {names[0], names[1]}


def test_fresh_scenes_are_of_a_stream_of_their_own():
    seen, unseen = (fresh_scenes("small", 6, which) for which in (False, True))
    assert all(SMALL.unseen(scene.look) for scene in unseen) and not any(SMALL.unseen(scene.look) for scene in seen)
    assert STREAMS["judge"] not in (STREAMS["training"], STREAMS["held out"], STREAMS["development"], STREAMS["test"])


@pytest.mark.filterwarnings("ignore")  # a probe has doubts about a model of random weights
def test_the_command_samples_each_prompt_and_prints(tmp_path, monkeypatch, capsys):
    model = tiny_model()
    save(model, tmp_path / "model.safetensors")
    monkeypatch.setattr(command, "load_recogniser", lambda path, device: Recogniser().eval())
    prompts = []

    def spy(model, words, seed, steps, guidance_scale):
        prompts.extend(words)
        return [render(scene).image for scene in fresh_scenes("small", len(words), False)]

    monkeypatch.setattr(command, "sample_prompts", spy)
    monkeypatch.setattr("train.miniature.judge.recognise_subjects", Oracle(fresh_scenes("small", 30, False)))
    out = tmp_path / "judgement.json"
    arguments = (
        "--model",
        tmp_path / "model.safetensors",
        "--prompts",
        57,
        "--scenes",
        3,
        "--device",
        "cpu",
        "--out",
        out,
    )
    monkeypatch.setattr("sys.argv", ["judge", *map(str, arguments)])
    command.main()
    said, numbers = capsys.readouterr().out, json.loads(out.read_text())
    expected = [*fresh_scenes("small", 29, False), *fresh_scenes("small", 28, True)]
    assert prompts == [caption(scene) for scene in expected]
    assert "in the subject" in said and "samples of looks never trained on" in said
    assert tuple(numbers["sampled"]) == SHARES_TOLD and 0.8 < numbers["sampled"]["species"] <= 1
    assert len(numbers["psnr"]) == 4


def test_pictures_are_carried_in_order(device):
    model = tiny_model().to(device) if hasattr(tiny_model(), "to") else tiny_model()
    images = torch.stack([to_tensor(render(scene, 64).image) for scene in fresh_scenes("small", 27, False)])
    together = carry(model, images.to(model.device))
    assert len(together) == 27
    alone = carry(model, images[26:].to(model.device))[0]
    assert together[26].size == (64, 64)
    assert max(abs(a - b) for a, b in zip(together[26].tobytes(), alone.tobytes(), strict=True)) <= 1  # rounding


@pytest.mark.parametrize("option", ["--prompts", "--scenes"])
def test_nothing_to_judge_is_refused(monkeypatch, capsys, option):
    monkeypatch.setattr("sys.argv", ["judge", option, "0"])
    with pytest.raises(SystemExit):
        command.main()
    assert "at least 1" in capsys.readouterr().err


def test_the_questions_are_ones_the_recogniser_answers():
    assert set(ASKED) <= ATTRIBUTES.keys()
