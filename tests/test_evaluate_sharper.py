"""photoswap.evaluate_sharper: tasks, intervals and tables; most learn and swap nothing real, to be quick."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from tiny_model import tiny_model

from models.images import load_image
from photoswap import evaluate_sharper as measure
from photoswap.methods import Photoswap
from train.config import dreambooth_config
from train.world import SMALL


def test_the_scenes_of_a_subject_are_different_scenes_of_one_subject():
    tasks = measure.scenes_of(3, 3)
    looks = {task.subject for task in tasks}
    assert len(looks) == 1 and SMALL.unseen(looks.pop()) and all(task.within_species for task in tasks)
    assert len({task.scene.look for task in tasks}) == 1
    assert len({task.source.image.tobytes() for task in tasks}) == 3
    for task in tasks:
        outside = np.asarray(task.source.mask) == 0
        outside &= np.asarray(task.truth.mask) == 0
        assert (np.asarray(task.source.image)[outside] == np.asarray(task.truth.image)[outside]).mean() > 0.9
    assert measure.scenes_of(4, 1)[0].subject != tasks[0].subject


def test_an_option_is_the_preset_but_for_itself():
    plain = measure.configuration("cat", measure.PLAIN, 40)
    for option, changes in measure.OPTIONS.items():
        wanted = replace(plain, **{**changes, **({"token_steps": 10} if option == "token first" else {})})
        assert measure.configuration("cat", option, 40) == wanted


def test_the_interval_of_equal_differences_is_a_point_and_of_others_their_spread():
    assert measure._interval([0.5] * 4) == (0.5, 0.5, 0.5)
    rng = np.random.default_rng(1)
    mean, low, high = measure._interval(rng.normal(2.0, 1.0, 400).tolist())
    assert mean == pytest.approx(2.0, abs=0.15)
    assert (low - mean, high - mean) == pytest.approx((-0.098, 0.098), abs=0.01)  # 1.96 / sqrt(400)


def test_the_table_pairs_the_subjects():
    found = {
        measure.PLAIN: [{"subject": 10.0, "look": 0.5}, {"subject": 20.0, "look": 1.0}],
        "both losses": [{"subject": 11.0, "look": 0.5}, {"subject": 21.0, "look": 1.0}],
    }
    assert list(measure.options_table(found)) == [
        "| option | subject dB | look |",
        "|---|---|---|",
        "| plain | 15.00 | 0.75 |",
        "| both losses | 16.00 (+1.00; +1.00 to +1.00) | 0.75 (+0.00; +0.00 to +0.00) |",
    ]


@pytest.mark.parametrize("option", ["both losses", "token first"])
def test_a_subject_is_learnt_and_swapped_for_real(option, tmp_path, monkeypatch):
    monkeypatch.setattr(measure.swap_in, "__defaults__", (Photoswap.scaled(2), False))
    monkeypatch.setattr(
        measure, "dreambooth_config", partial(dreambooth_config, batch=1, class_pictures=1, class_steps=1)
    )
    found = measure.kept_scores(tiny_model(), 0, option, 1, 4, tmp_path)
    (scores,) = found["scores"]
    assert {*scores, "look"} == {*measure.UNITS} and np.isfinite([*scores.values()]).all()
    assert scores["subject"] > 0 and 0 <= scores["colours"] <= 1 and 0 <= scores["word's mask"] <= 1
    assert load_image(tmp_path / f"00-{option.replace(' ', '-')}-0.png").size == (128, 128)


@pytest.fixture
def quick(monkeypatch):
    """What was learnt; a swap is then a picture of one colour, its subject score that of its number and option."""
    learnt = []

    def learn(model, task, option, steps, home):
        learnt.append((task.name, option))
        return type("Concept", (), {"token": option})

    def swap(model, task, option):
        score = int(task.name.split("-")[-1]) + list(measure.OPTIONS).index(option)
        return {"subject": float(score)}, Image.new("RGB", (128, 128))

    monkeypatch.setattr(measure, "load", lambda *_: tiny_model())
    monkeypatch.setattr(measure, "learnt", learn)
    monkeypatch.setattr(measure, "apply_concept", lambda model, _: model)
    monkeypatch.setattr(measure, "scored_swap", swap)
    monkeypatch.setattr(measure, "RECOGNISER_FILE", measure.Path("nowhere"))
    return learnt


LINE = ["--subjects", "2", "--scenes", "1", "--options", "both losses", "min-SNR", "--steps", "8"]


def test_a_run_goes_on_where_it_stopped_and_shards_make_the_whole(quick, tmp_path, capsys):
    line = [*LINE, "--out", str(tmp_path)]
    measure.main([*line, "--shard", "1/2"])
    measure.main([*line, "--shard", "2/2"])
    assert capsys.readouterr().out == "" and len(quick) == len(set(quick)) == 6
    measure.main(line)
    told = capsys.readouterr().out
    assert len(quick) == 6
    assert "| plain | 1.00 |" in told and "| min-SNR | 6.00 (+5.00; +5.00 to +5.00) |" in told
    assert load_image(tmp_path / "pictures.png").size[1] > 2 * 192
    kept = json.loads((tmp_path / "01-both-losses.json").read_text())
    assert kept["scores"] == [{"subject": 5.0}] and kept["about"]["option"] == measure.OPTIONS["both losses"]


def test_other_steps_are_learnt_anew(quick, tmp_path):
    for steps in ("8", "9"):
        measure.main([*LINE[:-1], steps, "--out", str(tmp_path)])
    assert len(quick) == 12


@pytest.mark.parametrize("shard", ["2", "0/2", "3/2", "a/b"])
def test_a_shard_is_one_of_so_many(shard, capsys):
    with pytest.raises(SystemExit):
        measure.main(["--shard", shard])
    assert "--shard" in capsys.readouterr().err
