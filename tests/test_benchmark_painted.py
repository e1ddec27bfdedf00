"""Painters in the benchmark: told by one reference, in a box, beside what swaps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from safetensors.torch import save_file
from test_paint_training import small_config
from tiny_model import tiny_model, tiny_painter

from photoswap.__main__ import main
from photoswap.benchmark.entries import PAINTER, PAINTERS, Entry, make_entries
from photoswap.benchmark.features import RecogniserFeatures
from photoswap.benchmark.judge import Judge
from photoswap.benchmark.painted import Easel, room_for, shown_of
from photoswap.benchmark.plan import RunPlan
from photoswap.benchmark.report import run_and_report
from photoswap.benchmark.run import ALL, Benchmark
from photoswap.benchmark.shelf import ConceptShelf
from photoswap.benchmark.tasks import draw_task
from photoswap.benchmark.workbench import Workbench
from photoswap.guidance import GUIDANCE_OF
from photoswap.paint_methods import PaintSettings, Told
from photoswap.painters import paint
from train.paint import start_from
from train.recogniser import Recogniser
from weights.load import save

ENTRIES = make_entries(["reference-attention", "painters"], ["direct"], ["dreambooth"], ["published"])
PLAN = RunPlan(ENTRIES, tasks=1, steps=2, guidance_scale=2.0, masks="true")


@pytest.fixture(scope="module")
def base():
    return tiny_model()


@pytest.fixture(scope="module")
def easel():
    torch.manual_seed(0)
    return Easel(start_from(tiny_model(), small_config(), seed=1), RecogniserFeatures(Recogniser().eval()))


@pytest.fixture(scope="module")
def done(base, easel, tmp_path_factory):
    out = tmp_path_factory.mktemp("painted")
    shelf = ConceptShelf(base, out / "concepts")
    benchmark = Benchmark(base, PLAN, out, Judge(Recogniser().eval().requires_grad_(False)), shelf, easel)
    return benchmark, list(run_and_report(benchmark, ALL, progress=False))


def test_painters_are_rows_beside_what_swaps(done):
    benchmark, said = done
    for name in PAINTERS:
        assert f"\n| {name} |" in said[0]
    told = json.loads((benchmark.out / "results.json").read_text())
    rows = {one["label"]: one for one in told["entries"]}
    assert {"identity", "background_psnr", "pose_error"} <= rows[PAINTER]["scores"].keys()
    assert rows[PAINTER]["seconds"] > 0
    assert rows[PAINTER]["row_calls"] == 6  # PLMS asks once more than there are steps, two rows each
    # Of 2 steps blended-text skips none; blended-image is told by the picture alone; half are taken of a paste.
    assert [rows[name]["row_calls"] for name in PAINTERS[1:]] == [4, 2, 0, 2]
    assert not told["refused"]


def test_a_cell_is_what_the_library_paints(done, easel):
    benchmark, _ = done
    task = draw_task("dev", "single", 0)
    shown = task.newcomers[0].pictures[0]
    told = Told(shown_of(shown.image, shown.mask)[0])
    room = room_for(task.source.masks[0])
    alone = paint(easel.painter, task.source.image, room, told, PaintSettings(steps=2, guidance_scale=2.0))
    found = benchmark.cell(benchmark.task(0), Entry(PAINTER, "none", "none")).picture()
    assert found.tobytes() == alone.result.tobytes()


def test_the_box_leaves_five_pixels_of_room_and_the_reference_some_too():
    mask = Image.new("L", (128, 128))
    mask.paste(255, (30, 3, 60, 50))
    assert room_for(mask).getbbox() == (25, 0, 65, 55) and room_for(mask).getextrema() == (0, 255)
    picture, part = shown_of(Image.new("RGB", (128, 128)), mask)
    assert picture.size == part.size == (34, 51)


@pytest.mark.parametrize("name", PAINTERS)
def test_outside_the_box_every_pixel_is_the_source_s(name, done):
    benchmark, task = done[0], done[0].task(0)
    found = np.array(benchmark.cell(task, Entry(name, "none", "none")).picture())
    outside = np.array(room_for(task.source.masks[0])) == 0
    assert (found == np.array(task.source.image))[outside].all()
    assert (found != np.array(task.source.image)).any()


def test_a_finished_run_computes_nothing_and_another_painter_is_told(done, base, monkeypatch):
    benchmark, said = done
    monkeypatch.setattr(Workbench, "do", None)
    assert list(run_and_report(benchmark, ALL, progress=False)) == said
    other = start_from(tiny_model(1), small_config(), seed=2)
    with pytest.raises(ValueError, match="was made with another painter"):
        list(run_and_report(replace(benchmark, easel=Easel(other, benchmark.easel.features)), ALL, progress=False))


def test_an_inpainting_network_is_told_the_class_word(base):
    easel, entry = Easel(tiny_painter()), Entry(PAINTER, "none", "none")
    method = easel.method(entry, 7.5, 2)
    assert (method.sampler, method.eta, method.guidance_scale, method.steps) == ("ddim", 1.0, 7.5, 2)
    told = easel.told(entry, Image.new("RGB", (8, 8)), None, "owl")
    assert told.prompt == "a photo of an owl" and told.reference is None
    by_image = easel.told(Entry("blended-image", "none", "none"), Image.new("RGB", (8, 8)), None, "owl")
    assert by_image.said == ["reference"]


def test_several_subjects_are_painted_one_after_another(base):
    plan = replace(PLAN, kind="pair", entries=(Entry("paste-harmonise", "none", "none"),))
    bench = Workbench(base, None, plan, draw_task("dev", "pair", 0))
    done = bench.do(plan.entries[0])
    moved = np.any(np.array(done.picture) != np.array(bench.task.source.image), axis=-1)
    assert len(done.settings) == 2
    assert all(moved[np.array(mask) > 127].mean() > 0.5 for mask in bench.task.source.masks)


def test_what_painters_need_is_asked_for():
    with pytest.raises(ValueError, match="give its file with --painter"):
        Easel().method(Entry(PAINTER), 7.5)
    with pytest.raises(ValueError, match="give them with --features"):
        Easel().method(Entry("blended-image"), 7.5)


def test_a_painter_keeps_to_its_own_guidance():
    entry = Entry(PAINTER, "none", "none")
    assert Easel(tiny_painter(), guidance=2.0).method(entry, 7.5).guidance_scale == 2
    assert Easel(tiny_painter(), guidance=2.0).method(Entry("paste-denoise", "none", "none"), 3.0).guidance_scale == 3


@pytest.mark.parametrize(("asked", "own"), [([], 2.0), (["--guidance", "4"], 4.0)])
def test_the_miniature_s_painter_is_held_to_two(tiny, tmp_path, capsys, easel, none_shipped, asked, own, monkeypatch):
    monkeypatch.setitem(GUIDANCE_OF, "tiny-paint", 2.0)
    save(easel.painter, tmp_path / "miniature-paint.safetensors")
    assert main([*QUICK, *asked, "--methods", PAINTER, *tiny, "--out", str(tmp_path / "one")]) == 0
    (cell,) = (tmp_path / "one" / "cells").glob(f"*+{PAINTER}*.json")
    assert f'"guidance_scale": {own}' in cell.read_text()


QUICK = ["evaluate", "--tasks", "1", "--steps", "1", "--masks", "true"]


@pytest.fixture
def none_shipped(monkeypatch, tmp_path):
    """An installation without a painter of its own."""
    monkeypatch.setattr("weights.published.MINIATURE_PAINTER", tmp_path / "miniature-paint.safetensors")


def test_the_shipped_painter_will_do(tiny, tmp_path, capsys, easel, none_shipped):
    save(easel.painter, tmp_path / "miniature-paint.safetensors")
    assert main([*QUICK, "--methods", PAINTER, *tiny, "--out", str(tmp_path / "one")]) == 0
    assert "\n| painter |" in capsys.readouterr().out


def test_the_command_takes_a_painter(tiny, tmp_path, capsys, easel, none_shipped):
    file = tmp_path / "painter.safetensors"
    save(easel.painter, file)
    out = ["--out", str(tmp_path / "one")]
    assert main([*QUICK, "--methods", PAINTER, "--painter", str(file), *tiny, *out]) == 0
    assert "\n| painter |" in capsys.readouterr().out


@pytest.mark.slow
def test_without_a_painter_the_others_run(tiny, tmp_path, capsys, easel, none_shipped):
    eyes = tmp_path / "eyes.safetensors"
    save_file(easel.features.recogniser.state_dict(), eyes)
    out = ["--out", str(tmp_path / "two")]
    assert main([*QUICK, "--methods", "painters", "--features", str(eyes), *tiny, *out]) == 0
    said = capsys.readouterr().out
    assert "painter is left out: no --painter" in said and "\n| blended-image |" in said and "| painter |" not in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "painter"], "give its file with --painter"),
        (["--methods", "plain", "--painter", "a.safetensors"], "--painter changes nothing"),
        (["--methods", "painter", "--painter", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--methods", "plain", "--features", "a.pt"], "--features changes nothing"),
        (["--methods", "painter", "--painter", "miniature"], "draws whole pictures"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tiny, tmp_path, capsys, words, sentence, none_shipped):
    assert sentence in refused(capsys, "evaluate", *words, *tiny, "--out", tmp_path / "out")
