"""train.miniature.judge: what is asked of samples, and that right answers are counted."""

import json

import pytest
import torch
from tiny_model import tiny_model

from models.images import to_tensor
from train.miniature import judge as command
from train.miniature.data import STREAMS
from train.miniature.judge import ASKED, carry, fresh_scenes, hits
from train.recogniser import ATTRIBUTES, Recogniser
from train.world import SMALL, caption, render
from weights.load import save


class Oracle:
    """Says of a picture what the scene drawn in it shows; of any other, what the first scene shows."""

    def __init__(self, scenes):
        self.scenes = {render(scene).image.tobytes(): scene for scene in scenes}
        self.first = scenes[0]

    def __call__(self, recogniser, pictures):
        found = [self.scenes.get(picture.tobytes(), self.first) for picture in pictures]
        return [dict(zip(ASKED, (s.look.species, s.look.colour, s.look.pattern, s.place), strict=True)) for s in found]


def test_hits_are_counted_for_each_question_and_for_all(monkeypatch):
    scenes = fresh_scenes("small", 8, unseen=False)
    monkeypatch.setattr(command, "recognise_subjects", Oracle(scenes))
    drawn = [render(scene).image for scene in scenes]
    assert hits(None, drawn, scenes) == dict.fromkeys((*ASKED, "all four"), 1.0)
    wrong = hits(None, drawn[::-1], scenes)
    colours = [scene.look.colour for scene in scenes]
    assert wrong["colour"] == pytest.approx(sum(a == b for a, b in zip(colours, colours[::-1], strict=True)) / 8)
    assert wrong["all four"] <= min(wrong[name] for name in ASKED)


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
    assert numbers["sampled"].keys() == {*ASKED, "all four"} and 0.8 < numbers["sampled"]["species"] <= 1
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
