"""The benchmarks themselves: that they measure what they say, at a size where that is quick."""

import json
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import pytest
import torch
from benchmarks import counted, full, gpu, gpu_miniature, learning, parts
from benchmarks.__main__ import BEGIN, END, PARTS, main, table, written_into
from benchmarks.measure import Clock, Figure, peak_bytes, shares
from benchmarks.parts import Bench
from benchmarks.scene import Scene, without_savings
from tiny_model import tiny_config, tiny_model

from photoswap.methods import Photoswap
from train.config import learn_config

LONG = ("null-text", "counted", "savings", "oracle", "growth", "dtypes", "starts", "learn")
METHOD = Photoswap(steps=4, phi=1, M=3, A=2)


@pytest.fixture(scope="module")
def scene():
    return Scene.of(tiny_model(), METHOD, 16)


@pytest.fixture
def bench():
    made = Bench(Clock("cpu"), rounds=1, short=True)
    made.__dict__["model"] = tiny_model()  # in place of the miniature
    return made


def test_ratios_alternate_and_the_first_round_is_not_counted():
    order, naps = [], iter([0.05, 0.05, 0.02, 0.01, 0.02, 0.01])

    def job(name):
        order.append(name)
        time.sleep(next(naps) if name == "job" or len(order) > 2 else 0.001)

    ((middle, low, high),) = Clock().ratios([lambda: job("job")], lambda: job("base"), 2)
    assert order == ["base", "job"] * 3
    assert low <= middle <= high < 25  # the first round's was 50


def test_the_peak_counts_what_is_held_at_once():
    def job():
        a = torch.ones(2**18)
        b = a + 1
        del a
        return b * 2

    assert peak_bytes(job) == pytest.approx(2 * 2**20, rel=0.01)


def test_taking_savings_away_changes_the_cost_and_not_the_result(scene):
    """In float64 that would be 1e-10; in float32 rounding is all that is left."""
    expected, rows = scene.swap(), []
    call = type(scene.model.unet).denoise
    scene.model.unet.body = lambda unet, latents, *more: rows.append(len(latents)) or call(unet, latents, *more)
    counted = {}
    for what, side in without_savings(scene).items():
        rows.clear()
        assert torch.allclose(side(), expected, rtol=0, atol=1e-3 * expected.abs().max()), what
        counted[what] = sum(rows)
    rows.clear()
    scene.swap()
    assert (sum(rows), counted["rows that nobody needs are computed"], counted["all of these"]) == (12, 16, 16)
    scene.model.unet.body = call


def test_a_step_without_its_savings_learns_the_same(bench):
    """The two that are taken away by hand; the others are options, and have tests of their own."""
    sides = {"lora": (learning.AS_IT_IS["lora"], learning.encoding_prompts), "dreambooth": ({}, learning.not_fused)}
    for method, (options, change) in sides.items():
        config = learn_config(method, "sd21", "cat", prior_weight=0.0, size=64, **options)
        losses = []
        for taken_away in (None, change):
            with ExitStack() as stack:
                learner = learning.learner_for(bench, stack, config, taken_away)
                losses.append([learner.step() for _ in range(2)])
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # another order of sums in AdamW


def test_plain_sampling_has_four_rows(scene):
    rows = []
    scene.plain(lambda latents, t, context: rows.append(len(latents)) or latents)
    assert rows == [4] * 4


def test_shares_are_of_the_whole():
    def slow():
        time.sleep(0.03)

    def fast():
        time.sleep(0.01)

    first, second, none = shares(lambda: (slow(), fast()), [slow, fast, table])
    assert first == pytest.approx(0.75, abs=0.1) and second == pytest.approx(0.25, abs=0.1) and none == 0


def test_a_sweep_as_a_tree_computes_what_is_shared_once(scene):
    rows, call = [], type(scene.model.unet).denoise
    scene.model.unet.body = lambda unet, latents, *more: rows.append(len(latents)) or call(unet, latents, *more)
    counts = {}
    for shared in (True, False):
        rows.clear()
        scene.sweep(2, shared)
        counts[shared] = sum(rows)
    scene.model.unet.body = call
    assert counts[True] < counts[False]


@pytest.mark.slow  # counts every operator of nine calls, without data
def test_operations_are_fewer_than_the_rows_say(bench):
    """Rows alone say 0.675; where phi goes over, attention is not computed for those that take it."""
    share, unread, peak = counted.counted(bench, tiny_config().unet)
    assert 0 < unread.value < 0.05
    assert share.unit == "x" and 0.6 < share.value < 0.7
    assert peak.most == 1.05 and 0.5 < peak.value < 1.5  # tiny layers, hardly wider than the text


@pytest.mark.parametrize("part", ["swap", "tiling", *(pytest.param(part, marks=pytest.mark.slow) for part in LONG)])
def test_a_part_gives_figures(part, bench):
    figures = list(PARTS[part](bench))
    assert figures and all(figure.part == part and figure.value > 0 for figure in figures)
    for figure in figures:
        print(figure.cells())
    if part == "tiling":
        assert next(figure for figure in figures if figure.unit == "relative").holds
        assert next(figure for figure in figures if "peak" in figure.what).value < 0.8


def test_the_full_size_weighs_the_tables_by_their_steps(bench):
    """The same on a tiny model: the four steps of a short swap are one of each table."""
    config = tiny_config()
    scene = Scene.of(full.drawn_model(config, torch.float32), METHOD, 16)
    assert len(full.step_seconds(bench, scene)) == len(full.WEIGHTS) and sum(full.WEIGHTS) == 50
    figures = list(full.full(bench, config, 16))
    assert [figure.most for figure in figures if "swap" in figure.what] == [0.75]
    assert all(figure.value < 1e-1 for figure in figures if figure.unit == "relative")


def test_tables_go_between_the_markers():
    missed = Figure("swap", "time", 0.9, "x", 0.8, 1.0, 0.85)
    page = written_into(f"before\n{BEGIN}\nold\n{END}\nafter", table([missed, replace(missed, value=0.8)]))
    assert "old" not in page and page.startswith("before") and page.endswith("after")
    assert "| time | 0.90 x | 0.80 to 1.00 | 0.85 MISSED |" in page and "| time | 0.80 x |" in page
    with pytest.raises(ValueError, match="nowhere to write"):
        written_into("a page", "a table")


def test_what_was_measured_before_is_not_measured_again(tmp_path, monkeypatch, capsys):
    runs = []
    parts_of = {name: lambda bench, name=name: runs.append(name) or iter([Figure(name, "it", 2.0)]) for name in "ab"}
    monkeypatch.setattr("benchmarks.__main__.PARTS", parts_of)
    monkeypatch.setattr("benchmarks.__main__.suited_threads", lambda model: nullcontext())
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}{END}")
    for line in (["b"], []):
        main([*line, "--json", str(tmp_path / "kept.jsonl"), "--write", str(page)])
    assert runs == ["b", "a"] and page.read_text().count("| it | 2.00 x |") == 2
    assert page.read_text().index("**a**") < page.read_text().index("**b**")


def test_every_part_says_what_it_measures():
    assert all(part.__doc__ for part in [*PARTS.values(), *gpu.PARTS.values()])
    assert parts.plain(Bench(Clock())) is not None and list(parts.plain(Bench(Clock()))) == []


def test_the_gpu_script_goes_on_where_it_stopped(tmp_path, capsys):
    line = ["--dry-run", "--device", "cpu", "--out", str(tmp_path)]
    gpu.main([*line, "--part", "dreambooth", "--minutes", "0"])
    assert "run again" in capsys.readouterr().out
    gpu.main([*line, "--part", "dreambooth"])
    names = [json.loads(text)["name"] for text in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert names == ["dreambooth bfloat16 128", "lora bfloat16 128"]


@pytest.mark.slow  # traces a dozen graphs and trains four networks for two steps
def test_all_of_the_gpu_script_runs_dry(tmp_path):
    gpu.main(["--dry-run", "--device", "cpu", "--out", str(tmp_path)])
    found = [json.loads(text) for text in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert {entry["name"].split()[0] for entry in found} >= {"tests", "calls", "swap", "null-text", "lora", "miniature"}
    assert not [entry for entry in found if "failed" in entry["name"] or entry.get("exit")]


def test_checkpoints_pass_through_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_miniature, "PIECE", 10)
    (tmp_path / "work" / "diffusion").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "work" / "diffusion" / "checkpoint.pt").write_bytes(bytes(range(25)))
    assert len(gpu_miniature.send_out(tmp_path / "work", tmp_path / "out")) == 3
    gpu_miniature.take_in(tmp_path / "out", tmp_path / "next")
    assert (tmp_path / "next" / "diffusion" / "checkpoint.pt").read_bytes() == bytes(range(25))


def test_a_stage_that_takes_too_long_is_stopped_and_one_that_fails_is_told(tmp_path):
    how, said = gpu_miniature.run_stage(gpu_miniature.Stage("x", ("no.such.module",)), tmp_path, 60)
    assert how == "failed" and "No module named" in said
    (tmp_path / "forever.py").write_text("import time\ntime.sleep(60)\n")
    assert gpu_miniature.run_stage(gpu_miniature.Stage("x", ("forever",)), tmp_path, 0.5)[0] == "stopped"
