"""Tuning of ways to learn: every trial learns with its changes, is done once, and the best stands beside theirs."""

import json

import pytest
from tiny_model import tiny_model

from photoswap.benchmark import tune_concepts
from photoswap.benchmark.entries import Entry
from photoswap.benchmark.judge import Judge
from photoswap.benchmark.plan import RunPlan
from photoswap.benchmark.run import Benchmark
from photoswap.benchmark.shelf import WAYS_OF_LEARNING, ConceptShelf, tuned_learning
from photoswap.benchmark.tune_concepts import LEARNING_GRIDS, main, swap_scores, tune_ways
from photoswap.benchmark.workbench import Workbench
from train.config import learn_config
from train.presets import PRESETS

QUICK = {"steps": 1, "prior_weight": 0.0}


@pytest.fixture
def benchmark(tmp_path):
    base = tiny_model()
    plan = RunPlan((Entry("plain"),), 1, steps=2, guidance_scale=2.0)
    return Benchmark(base, plan, tmp_path / "out", Judge(), ConceptShelf(base, tmp_path / "shelf", QUICK))


def test_every_way_is_tuned_over_values_that_change_its_preset():
    assert tuple(LEARNING_GRIDS) == WAYS_OF_LEARNING
    for way, grid in LEARNING_GRIDS.items():
        for name, values in grid.items():
            tried = [learn_config(way, "miniature", "cat", **{name: value}) for value in values]
            kept = PRESETS[way]["miniature"].get(name)
            assert [getattr(one, name) for one in tried] == list(values) and kept not in values


def test_a_trial_learns_with_its_changes_and_is_done_once(benchmark, monkeypatch):
    usual, other = (swap_scores(benchmark, "lora", changes, False) for changes in ({}, {"learning_rate": 0.5}))
    (one,) = usual
    assert len(other) == 1 and other[0] != one
    cells = benchmark.out.glob("*/cells/*.json")
    assert len({concept for cell in cells for concept in json.loads(cell.read_text())["made_by"]["concepts"]}) == 2
    monkeypatch.setattr(Workbench, "do", None)
    assert swap_scores(benchmark, "lora", {"learning_rate": 0.5}, False) == other


def test_the_best_is_told_beside_the_methods(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(LEARNING_GRIDS, "lora", {"learning_rate": (1.0, 2.0), "prior_weight": (0.5,)})
    monkeypatch.setattr(tune_concepts, "swap_scores", lambda benchmark, way, changes: [changes.get("learning_rate", 0)])
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps({"aim": "overall_psnr", "methods": {"plain": {}}}))
    tune_ways(benchmark, ["lora"], file)
    found = json.loads(file.read_text())
    assert found["methods"] == {"plain": {}}
    assert found["concepts"]["lora"]["settings"] == {"learning_rate": 2.0}
    assert (found["concepts"]["lora"]["overall_psnr before"], found["concepts"]["lora"]["trials"]) == (0, 4)
    assert "lora {'learning_rate': 1.0}: 1.000 dB" in capsys.readouterr().out


def test_an_unknown_way_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--concepts", "cake"])
    assert "invalid choice: 'cake'" in capsys.readouterr().err


def test_what_was_found_is_a_preset_of_the_benchmark(benchmark, tmp_path):
    newcomer = benchmark.task(0).newcomers[0]
    shelf = ConceptShelf(benchmark.base, tmp_path / "shelf")
    found = tuned_learning("lora")
    tuned, usual = (shelf.config(newcomer, how).settings() for how in ("lora:tuned", "lora"))
    assert found and {name: tuned[name] for name in found} == found
    assert {name for name in usual if tuned[name] != usual[name]} <= set(found)
    assert shelf.key(newcomer, "lora:tuned") != shelf.key(newcomer, "lora")
    file = tmp_path / "tuned.json"
    file.write_text('{"methods": {}}')
    with pytest.raises(ValueError, match=r"lora has not been tuned; python -m photoswap\.benchmark\.tune_concepts"):
        tuned_learning("lora", file)
