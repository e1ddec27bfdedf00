"""The benchmark on a tiny random model: cells are done once, shards make the whole, a stopped run goes on."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import leave_behind
from PIL import Image
from tiny_model import tiny_model

from photoswap.benchmark import workbench
from photoswap.benchmark.entries import Entry, make_entries
from photoswap.benchmark.gates import Gate, gates_of
from photoswap.benchmark.judge import Judge
from photoswap.benchmark.plan import RunPlan
from photoswap.benchmark.report import REPORT_FILES, missing_cells, run_and_report
from photoswap.benchmark.run import Benchmark, Shard
from photoswap.benchmark.shelf import ConceptShelf
from photoswap.benchmark.tasks import draw_task
from photoswap.benchmark.workbench import Workbench
from train.recogniser import Recogniser

ENTRIES = make_entries(["photoswap", "sdedit"], ["direct"], ["dreambooth"], ["published"])
PLAN = RunPlan(ENTRIES, tasks=2, steps=2, guidance_scale=2.0, samples=1)
QUICK = {"steps": 1, "prior_weight": 0.0, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def base():
    return tiny_model()


@pytest.fixture(scope="module")
def shelf(base, tmp_path_factory):
    return ConceptShelf(base, tmp_path_factory.mktemp("shelf"), QUICK)


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    return Judge(Recogniser().eval().requires_grad_(False))


def benchmark(base, shelf, judge, out, plan=PLAN):
    return Benchmark(base, plan, out, judge, shelf)


@pytest.fixture(scope="module")
def whole(base, shelf, judge, tmp_path_factory):
    """An uninterrupted run, and what it said."""
    out = tmp_path_factory.mktemp("whole")
    said = list(run_and_report(benchmark(base, shelf, judge, out), Shard(), progress=False))
    return out, said


def cells(out):
    """Every cell but for its seconds, and the facts, by file."""
    found = {path.name: path.read_bytes() for path in sorted(out.glob("cells/*.png"))}
    for path in sorted([*out.glob("cells/*.json"), *out.glob("tasks/*.json")]):
        found[path.name] = without_seconds(json.loads(path.read_text()))
    return found


def without_seconds(value):
    if isinstance(value, dict):
        return {name: without_seconds(one) for name, one in value.items() if name != "seconds"}
    return value


def test_a_run_leaves_every_cell_and_the_tables(whole):
    out, said = whole
    assert len(cells(out)) == 2 * 2 * (len(ENTRIES) + 3) + 2
    assert said[1:] == [str(out / name) for name in REPORT_FILES] and all(
        (out / name).is_file() for name in REPORT_FILES
    )
    assert said[0].startswith("## Gates\n\ngate MISSED: the autoencoder inside the subject")
    told = json.loads((out / "results.json").read_text())
    assert [one["label"] for one in told["entries"]] == [
        *("the truth, autoencoded", "photoswap", "sdedit", "the source, unswapped", "a pasted reference"),
    ]
    first = told["entries"][1]
    assert first["scores"]["subject_psnr"]["mean"] == pytest.approx(np.mean(first["by task"]["subject_psnr"]))
    with Image.open(out / "grid.png") as grid:
        assert grid.width > 5 * 128 and grid.height > 2 * 128


def test_a_cell_is_the_swap_that_the_library_makes(base, shelf, whole):
    from photoswap.inversion import invert_image
    from photoswap.methods import Photoswap
    from photoswap.pipeline import swap
    from train.concepts import apply_concept

    task = draw_task("dev", "single", 1)
    model = apply_concept(base, shelf.take(task.newcomers[0], "dreambooth")[0])
    inversion = invert_image(model, task.source.image, task.prompt, steps=2)
    (turn,) = task.turns()
    alone = swap(model, inversion, turn.target, Photoswap.scaled(2, guidance_scale=2.0))
    with Image.open(whole[0] / "cells" / f"{task.name}+{ENTRIES[0].key}.png") as picture:
        assert picture.tobytes() == alone.result.tobytes()


def test_a_finished_run_computes_nothing_again(base, shelf, judge, whole, monkeypatch):
    leave_behind(whole[0], whole[0] / "cells", whole[0] / "tasks")
    monkeypatch.setattr(Workbench, "do", None)
    monkeypatch.setattr("photoswap.benchmark.facts.reconstruct", None)
    again = list(run_and_report(benchmark(base, shelf, judge, whole[0]), Shard(), progress=False))
    assert again == whole[1] and not list(whole[0].rglob(".*"))


def test_shards_make_the_whole(base, shelf, judge, whole, tmp_path):
    one = benchmark(base, shelf, judge, tmp_path)
    (said,) = run_and_report(one, Shard(1, 2), progress=False)
    assert said.startswith(f"{missing_cells(one)} results are still missing") and not (tmp_path / "table.md").exists()
    assert missing_cells(one) == len(ENTRIES) + 3 + 1
    assert set(cells(tmp_path)) == {name for name in cells(whole[0]) if name.startswith("dev-single-1")}
    list(run_and_report(one, Shard(0, 2), progress=False))
    assert cells(tmp_path) == cells(whole[0]) and (tmp_path / "table.md").is_file()


@pytest.mark.parametrize("after", [1, 6])
def test_a_stopped_run_goes_on_to_the_same_end(base, shelf, judge, whole, tmp_path, monkeypatch, after):
    do, calls = Workbench.do, []

    def stopping(self, entry):
        calls.append(entry)
        if len(calls) > after:
            raise KeyboardInterrupt
        return do(self, entry)

    one = benchmark(base, shelf, judge, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        patch.setattr(Workbench, "do", stopping)
        list(run_and_report(one, Shard(), progress=False))
    assert len(list(tmp_path.glob("cells/*.json"))) == after
    list(run_and_report(one, Shard(), progress=False))
    assert cells(tmp_path) == cells(whole[0])


def test_another_judge_scores_the_same_pictures_anew(base, shelf, judge, whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "copy")
    monkeypatch.setattr(Workbench, "do", None)
    list(run_and_report(benchmark(base, shelf, Judge(), tmp_path / "copy"), Shard(), progress=False))
    before, after = cells(whole[0]), cells(tmp_path / "copy")
    assert before.keys() == after.keys()
    for name in (name for name in before if name.endswith("json") and "+" in name):
        assert after[name]["scores"] == {k: v for k, v in before[name]["scores"].items() if k in after[name]["scores"]}
        assert before[name]["scores"].keys() - after[name]["scores"].keys() == {"identity", "pose_error"}
    assert "gate not judged" in (tmp_path / "copy" / "table.md").read_text()


def test_cells_made_otherwise_are_never_taken(base, shelf, judge, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "copy")
    other = benchmark(base, shelf, judge, tmp_path / "copy", replace(PLAN, steps=3))
    with pytest.raises(ValueError, match="was made with another method: write elsewhere with --out, or begin anew"):
        other.run(progress=False)
    assert cells(tmp_path / "copy") == cells(whole[0])
    list(run_and_report(other, Shard(), overwrite=True, progress=False))
    assert cells(tmp_path / "copy").keys() == cells(whole[0]).keys() and cells(tmp_path / "copy") != cells(whole[0])


def test_a_subject_is_learnt_once(base, shelf, whole, monkeypatch):
    newcomer = draw_task("dev", "single", 0).newcomers[0]
    monkeypatch.setattr("photoswap.benchmark.shelf.learn", None)
    concept, seconds = shelf.take(newcomer, "dreambooth")
    assert concept.class_word == newcomer.look.species and seconds > 0
    other = replace(shelf, changes={**QUICK, "steps": 2})
    assert len({one.key(newcomer, how) for one in (shelf, other) for how in ("dreambooth", "dreambooth:sd15")}) == 4


def test_settings_that_contradict_each_other_are_said_and_left_out(base, shelf, judge, tmp_path):
    entries = make_entries(["plug-and-play", "photoswap"], ["null-text"], ["dreambooth"], ["published"])
    plan = RunPlan(entries, tasks=1, steps=1, guidance_scale=2.0, samples=1)
    said = list(run_and_report(benchmark(base, shelf, judge, tmp_path, plan), Shard(), progress=False))
    assert "## Not run: plug-and-play\n\nnull contexts leave no room for a negative prompt" in said[0]
    assert "| photoswap |" in said[0] and "| plug-and-play |" not in said[0]


@pytest.mark.parametrize("kind", ["pair", "hidden"])
def test_other_kinds_swap_every_subject(base, shelf, judge, kind, monkeypatch):
    plan = RunPlan(
        (Entry("photoswap"), Entry("reference-attention", concept="none")), 1, kind=kind, steps=1, masks="true"
    )
    task, asked = draw_task("dev", kind, 0), []
    swap_all = workbench.swap_all

    def noting(model, requests):
        asked.extend((one.target_prompt, one.mask is not None, one.reference is not None) for one in requests)
        return swap_all(model, requests)

    monkeypatch.setattr(workbench, "swap_all", noting)
    made = Workbench(base, shelf, plan, task)
    done = [made.do(entry) for entry in plan.entries]
    targets = [turn.target for turn in task.turns()], [turn.target for turn in task.turns(task.species)]
    pair = kind == "pair"
    assert asked == [
        *((target, pair, False) for target in targets[0]),
        *((target, True, True) for target in targets[1]),
    ]
    source = np.array(task.source.image)
    outside = ~np.any([np.asarray(mask) > 127 for mask in task.source.masks], axis=0)
    for one, masked in zip(done, (pair, True), strict=True):
        assert len(one.settings) == len(task.newcomers)
        assert (np.array(one.picture) == source)[outside].all() == masked  # a mask keeps what is outside it


def test_a_reference_is_inverted_once(base, shelf, monkeypatch):
    one = Entry("reference-attention", concept="none")
    other = replace(one, changes=(("start_step", 0), ("start_layer", 0)))
    made = Workbench(base, shelf, RunPlan((one, other), 1, steps=1, masks="true"), draw_task("dev", "single", 0))
    told, invert = [], workbench.invert_image
    monkeypatch.setattr(workbench, "invert_image", lambda *more: told.append(more[2]) or invert(*more))
    first, second = made.do(one), made.do(other)
    assert told == [made.task.turns(made.task.species)[0].source, ""] and first.seconds > 0
    assert first.picture.tobytes() != second.picture.tobytes()


def test_masks_are_found_by_words_unless_the_true_ones_are_asked_for(base, shelf):
    task = draw_task("dev", "pair", 0)
    true, found = (Workbench(base, shelf, replace(PLAN, masks=masks), task).masks for masks in ("true", "words"))
    assert [mask.tobytes() for mask in true] == [mask.tobytes() for mask in task.source.masks]
    assert len(found) == 2 and all(a.tobytes() != b.tobytes() for a, b in zip(true, found, strict=True))


def test_inversions_get_a_table_of_their_own(base, shelf, judge, tmp_path):
    entries = make_entries(["plain"], ["direct", "ddim"], ["dreambooth"], ["published"])
    plan = RunPlan(entries, tasks=1, steps=2, guidance_scale=5.0, samples=1)
    text = next(run_and_report(benchmark(base, shelf, judge, tmp_path, plan), Shard(), progress=False))
    rows = [line for line in text[text.index("## Inversions") :].splitlines() if line.startswith("| ")]
    numbers = {row.split(" | ")[0][2:]: row.split(" | ")[1:] for row in rows}
    assert numbers["direct"][0] == numbers["the autoencoder alone"][0] and numbers["direct"][2] == "60.0"
    assert numbers["direct"][1] == numbers["ddim"][1] == numbers["ddim"][0] != numbers["direct"][0]


def test_gates_pass_miss_and_say_so():
    facts = {
        "autoencoder": {"subject": 27.0},
        "inversions": {"dreambooth+direct+2+2": {"returned": 34.0}},
        "concepts": {"dreambooth": {"recognised": None}},
    }
    found = [gate.sentence for gate in gates_of(PLAN, [facts])]
    assert found == [
        "gate passed: the autoencoder inside the subject: 27.0 dB, want at least 26.0 dB",
        "gate MISSED: direct back to the autoencoder's picture: 34.0 dB, want at least 35.0 dB",
        "gate not judged: plain samples that show the subject learnt by dreambooth: want at least 80%; there is no "
        "recogniser",
    ]
    assert Gate("a", 0.8, 0.8, "%").sentence == "gate passed: a: 80%, want at least 80%"
    with pytest.raises(ValueError, match="no task is finished"):
        gates_of(PLAN, [])


def test_torchruns_processes_are_shards(monkeypatch):
    assert Shard.of_torchrun() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert [i for i in range(8) if i in Shard.of_torchrun()] == [2, 5]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"split": "training"}, "no split 'training'"),
        ({"kind": "three"}, "no kind of task 'three'"),
        ({"tasks": 0}, "0 tasks by 2 entries"),
        ({"entries": ()}, "2 tasks by 0 entries"),
        ({"entries": (Entry("photoswap", concept="osmosis"),)}, "no way of learning 'osmosis'"),
        ({"entries": (Entry("photoswap", concept="dreambooth:big"),)}, "no preset 'big'"),
        ({"entries": (Entry("photoswap", changes=(("psi", 1),)),)}, "photoswap has no setting psi"),
    ],
)
def test_plans_that_cannot_be_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(PLAN, **change)
