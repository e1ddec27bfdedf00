"""Tuning: the best of what is tried is kept, trials are cells that are done once, and other methods keep theirs."""

import json

from tiny_model import tiny_model

from photoswap.benchmark import tune
from photoswap.benchmark.entries import OFFICIAL, Entry, tuned_settings
from photoswap.benchmark.judge import Judge
from photoswap.benchmark.plan import RunPlan
from photoswap.benchmark.run import Benchmark
from photoswap.benchmark.shelf import ConceptShelf
from photoswap.benchmark.tune import GRIDS, Tuning, tune_all
from photoswap.benchmark.workbench import Workbench
from photoswap.methods import METHODS


def tuning(tmp_path):
    plan = RunPlan((Entry("plain"),), 1, guidance_scale=2.0)
    base = tiny_model()
    return Tuning(
        Benchmark(base, plan, tmp_path / "out", Judge(), ConceptShelf(base, tmp_path / "shelf")), progress=False
    )


def test_every_method_is_tuned_over_values_that_it_may_have():
    assert set(GRIDS) == {*METHODS, OFFICIAL}
    for method, grid in GRIDS.items():
        for name, values in grid.items():
            for value in values:
                made, usual = Entry(method, changes=((name, value),)).make(3.0), Entry(method).make(3.0)
                assert getattr(made, name) == value and (made != usual or name == "guidance_scale")


def test_a_setting_is_kept_where_it_is_better(tmp_path, monkeypatch, capsys):
    def judged(self, entry):
        given = dict(entry.changes)
        mean = -abs(given.get("phi", 10) - 5) - abs(given.get("A", 20) - 40) + (given.get("M", 25) == 15)
        apart = 30 * (given.get("M") == 40)  # best of all for one task, worst for the other
        return [mean + apart, mean - apart]

    monkeypatch.setattr(Tuning, "scores", judged)
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps({"methods": {"plain": {"settings": {"guidance_scale": 1.0}}}}))
    tune_all(tuning(tmp_path), ["photoswap"], file)
    assert tuned_settings("photoswap", file) == (("phi", 5), ("M", 15), ("A", 40))
    assert tuned_settings("plain", file) == (("guidance_scale", 1.0),)
    told = json.loads(file.read_text())["methods"]["photoswap"]
    assert told["overall_psnr before"] == -25 and told["overall_psnr after"] == 1
    assert told["overall_psnr best of each task"] == (10 + 1) / 2
    assert told["tasks"] == ["dev-single-0"] and told["trials"] == 1 + 3 + 3 + 3 + 3
    assert "photoswap {'phi': 0}: -25.000 dB" in capsys.readouterr().out


def test_trials_are_done_once(tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "sdedit", {"t0": (0.02,)})  # one step
    monkeypatch.setattr(tune, "NOT_INVERTED", "none")
    monkeypatch.setattr(Workbench, "models", lambda self, concept: [self.base])
    first = list(tuning(tmp_path).tune("sdedit"))
    monkeypatch.setattr(Workbench, "do", None)
    assert list(tuning(tmp_path).tune("sdedit")) == first and len(first) == 2


def test_settings_that_cannot_be_lose(tmp_path, monkeypatch):
    one = tuning(tmp_path)
    assert one.scores(Entry("photoswap", changes=(("psi", 1),))) == [float("-inf")]
    monkeypatch.setattr(Workbench, "models", lambda self, concept: [self.base])
    asked = Entry("plug-and-play", "null-text", changes=(("steps", 1), ("guidance_scale", 1.0)))
    assert one.scores(asked) == [float("-inf")]  # null contexts leave no room for its negative prompt


def test_mistakes_and_stops_are_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    out, line = tmp_path / "out", ["--tasks", "1", "--methods", "sdedit", "--device", "cpu", "--out"]
    line += [str(out), "--file", str(tmp_path / "tuned.json")]
    monkeypatch.setitem(GRIDS, "sdedit", {})
    monkeypatch.setattr(tune, "load", lambda *_: tiny_model())
    monkeypatch.setattr(Workbench, "models", lambda self, concept: [self.base])
    assert tune.main(line) == 0 and tune.main(line) == 0
    (cell,) = out.glob("cells/*.json")
    cell.write_text(cell.read_text().replace('"seed": 0', '"seed": 1'))
    capsys.readouterr()
    assert tune.main(line) == 2
    told = capsys.readouterr().err
    assert "was made with another seed: write elsewhere with --out, or begin anew with --overwrite" in told
    assert told.count("\n") == 1 and tune.main([*line, "--overwrite"]) == 0

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "tune_all", stopped)
    assert tune.main(line) == 130 and "the same command goes on" in capsys.readouterr().err
