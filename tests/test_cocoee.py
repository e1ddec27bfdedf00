"""COCOEE: the bench's folder, painted once, resumed and shared, measured as published. The folder is drawn here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import files, leave_behind, refused
from PIL import Image
from safetensors.torch import save_file
from test_paint_training import small_config
from tiny_model import tiny_model

from photoswap.__main__ import main
from photoswap.benchmark import cocoee_report
from photoswap.benchmark.cocoee import BenchRun, CocoEE
from photoswap.benchmark.cocoee_report import RealPictures, measures, run_cocoee
from photoswap.benchmark.composition import Mixture, frechet_distance, quality_score, region_similarity
from photoswap.benchmark.entries import PAINTER, Entry
from photoswap.benchmark.features import RecogniserFeatures, features_of
from photoswap.benchmark.painted import Easel
from photoswap.benchmark.run import ALL, Shard
from photoswap.benchmark.tasks import draw_task
from photoswap.commands import evaluate_cocoee
from photoswap.masks import box_of
from photoswap.paint_methods import PaintSettings
from photoswap.painters import paint
from train.paint import start_from
from train.recogniser import Recogniser
from weights.load import save

NUMBERS = (785, 139, 632)  # as in the list, which is not sorted
ENTRIES = tuple(Entry(name, "none", "none") for name in (PAINTER, "paste-harmonise"))


def draw_bench(folder: Path) -> Path:
    """Three tasks in COCOEE's layout, 64 pixels a side."""
    for i, number in enumerate(NUMBERS):
        task = draw_task("dev", "single", i, 64)
        box = box_of(task.source.masks[0])
        mask = Image.new("L", (64, 64))
        mask.paste(255, box)
        shown = task.newcomers[0].pictures[0]
        reference = shown.image.crop(box_of(shown.mask))
        pairs = (("GT_3500/{}_GT", task.source.image), ("Ref_3500/{}_ref", reference))
        for name, picture in (*pairs, ("Mask_bbox_3500/{}_mask", mask)):
            file = folder / f"{name.format(f'{number:012d}')}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
    np.save(folder / "id_list.npy", np.array(NUMBERS))
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return draw_bench(tmp_path_factory.mktemp("bench") / "test_bench")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Twenty-two pictures, some in a folder of their own."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "more").mkdir()
    for i in range(22):
        picture = draw_task("dev", "single", 100 + i, 64).source.image
        picture.save(folder / ("more" if i > 15 else ".") / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    return RecogniserFeatures(Recogniser().eval().requires_grad_(False))


@pytest.fixture(scope="module")
def easel():
    return Easel(start_from(tiny_model(), small_config(), seed=1))


def make_run(bench, easel, out, entries=ENTRIES, **more):
    return BenchRun(CocoEE.open(bench), entries, easel, out, steps=1, seed=7, **more)


@pytest.fixture(scope="module")
def done(bench, easel, features, real, tmp_path_factory):
    run = make_run(bench, easel, tmp_path_factory.mktemp("done"))
    return run, list(run_cocoee(run, features, RealPictures(real), progress=False))


def results(run):
    return {str(f.relative_to(run.out)): f.read_bytes() for f in sorted(run.out.glob("*/results/*.png"))}


def test_the_list_says_which_and_in_which_order(bench, tmp_path):
    assert CocoEE.open(bench).numbers == NUMBERS and CocoEE.open(bench, limit=2).numbers == NUMBERS[:2]
    copy = draw_bench(tmp_path / "inner")
    (copy / "id_list.npy").rename(tmp_path / "id_list.npy")  # beside it, as in the repository
    assert CocoEE.open(copy).numbers == NUMBERS
    (tmp_path / "id_list.npy").unlink()
    assert CocoEE.open(copy).numbers == tuple(sorted(NUMBERS))


def test_a_result_is_what_the_script_paints(done, bench, easel):
    """The picture as it comes out, under the published name; each with a seed of its own."""
    run, _ = done
    task = run.bench.task(NUMBERS[1])
    method = PaintSettings(steps=1, guidance_scale=5.0, crop=False, keep=False)
    alone = paint(easel.painter, task.picture, task.mask, task.reference, method, seed=8)
    with Image.open(run.out / PAINTER / "results" / "000000000139.png") as found:
        assert found.tobytes() == alone.result.tobytes() == alone.painted.resize((64, 64), 1).tobytes()
    assert run.method(ENTRIES[1]).keep and not run.method(ENTRIES[0]).keep


def test_the_measures_are_the_published_ones(done, features, real):
    run, said = done
    told = json.loads((run.out / "cocoee.json").read_text())["painters"][PAINTER]
    painted = [Image.open(run.picture_file(ENTRIES[0], number)) for number in NUMBERS]
    theirs = features_of(features, [Image.open(file) for file in sorted(real.rglob("*.png"))])
    ours = features_of(features, painted)
    tasks = [run.bench.task(number) for number in NUMBERS]
    assert told["distance"] == pytest.approx(frechet_distance(ours, theirs), rel=1e-6)
    assert told["quality"] == pytest.approx(quality_score(Mixture.fit(theirs), ours), rel=1e-6)
    assert np.array_equal(Mixture.load(run.out / "mixture.safetensors").means, Mixture.fit(theirs).means)
    wanted = region_similarity(features, painted, [t.mask for t in tasks], [t.reference for t in tasks])
    assert told["similarity"] == pytest.approx(wanted, rel=1e-9)
    assert told["rows"] == 4 and told["seconds"] > 0
    assert f"| {PAINTER} | {told['distance']:.2f} | {told['quality']:.2f} | {told['similarity']:.2f} |" in said[0]


def test_a_mixture_of_one_s_own_is_taken(done, features, real, tmp_path, monkeypatch):
    run, _ = done
    theirs = RealPictures(real).features(features, run.out / "real.safetensors", False)
    Mixture.fit(theirs, 2).save(tmp_path / "two.safetensors")
    found = measures(run, features, RealPictures(real, tmp_path / "two.safetensors"))[PAINTER]
    ours = features_of(features, [Image.open(run.picture_file(ENTRIES[0], number)) for number in NUMBERS])
    assert found.quality == pytest.approx(quality_score(Mixture.fit(theirs, 2), ours))
    Mixture.fit(theirs[:, :5], 2).save(tmp_path / "five.safetensors")
    with pytest.raises(ValueError, match="a mixture of 5 features, these are 96"):
        measures(run, features, RealPictures(real, tmp_path / "five.safetensors"))


def test_real_pictures_are_seen_once(done, features, real, monkeypatch):
    run, _ = done
    monkeypatch.setattr(cocoee_report, "features_of", None)
    kept = RealPictures(real).features(features, run.out / "real.safetensors", False)
    assert kept.shape == (22, 96)
    torch.manual_seed(5)
    with pytest.raises(TypeError):  # another network's are not taken for these
        RealPictures(real).features(RecogniserFeatures(Recogniser()), run.out / "real.safetensors", False)


def test_shards_and_a_stopped_run_make_the_whole(done, bench, easel, features, tmp_path, monkeypatch):
    whole, _ = done
    run = make_run(bench, easel, tmp_path)
    (said,) = run_cocoee(run, features, None, Shard(1, 2), progress=False)
    assert said.startswith("4 results are still missing") and len(results(run)) == 2
    calls = []

    def stopping(self, *arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        return paint_one(self, *arguments)

    paint_one = BenchRun._do
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        patch.setattr(BenchRun, "_do", stopping)
        list(run_cocoee(run, features, None, ALL, progress=False))
    assert len(results(run)) == 3
    assert "still missing" not in "".join(run_cocoee(run, features, None, ALL, progress=False))
    assert results(run) == results(whole)
    leave_behind(run.out, *(run.out / entry.method / kind for entry in ENTRIES for kind in ("results", "records")))
    monkeypatch.setattr(BenchRun, "_do", None)
    assert "| 0 |" in next(iter(run_cocoee(run, features, None, ALL, progress=False)))  # rows of paste-harmonise
    assert not list(run.out.rglob(".*"))


def test_results_of_other_settings_are_not_taken(done, bench, easel, features):
    run, _ = done
    with pytest.raises(ValueError, match="was made with another seed: write elsewhere"):
        list(run_cocoee(BenchRun(run.bench, ENTRIES, easel, run.out, steps=1, seed=8), features, None, progress=False))
    other = Easel(start_from(tiny_model(1), small_config(), seed=1))
    with pytest.raises(ValueError, match="another painter"):
        list(run_cocoee(make_run(bench, other, run.out), features, None, progress=False))


def spoil(bench, what):
    if what == "no folder":
        (bench / "Ref_3500").rename(bench / "References")
    elif what == "no file":
        (bench / "Ref_3500" / "000000000139_ref.png").unlink()
    elif what == "no list":
        (bench / "id_list.npy").write_bytes(b"\x93NUMPY nothing")
    elif what == "another size":
        Image.new("L", (60, 64), 255).save(bench / "Mask_bbox_3500" / "000000000785_mask.png")
    elif what == "black":
        Image.new("L", (64, 64)).save(bench / "Mask_bbox_3500" / "000000000785_mask.png")
    elif what == "a line":
        mask = Image.new("L", (64, 64))
        mask.paste(255, (10, 20, 40, 21))
        mask.save(bench / "Mask_bbox_3500" / "000000000785_mask.png")
    else:
        (bench / "GT_3500" / "000000000785_GT.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("no folder", "has no folder Ref_3500; COCOEE's has GT_3500, Ref_3500, Mask_bbox_3500 and id_list.npy"),
        ("no file", "1 of 9 files of"),
        ("no list", "is no list of numbers"),
        ("another size", "000000000785_mask.png: the mask is 60 x 64 pixels, the source 64 x 64"),
        ("black", "000000000785_mask.png: the mask is black everywhere"),
        ("a line", "000000000785_mask.png: the mask covers a line"),
        ("no picture", "is not a picture"),
    ],
)
def test_a_spoiled_bench_is_told_in_a_sentence(what, sentence, tmp_path, capsys, features, line):
    spoil(draw_bench(tmp_path / "bench"), what)
    more = ["--methods", "paste-harmonise", "--features", line["eyes"], "--quiet", "--device", "cpu"]
    assert sentence in refused(capsys, "evaluate", "--cocoee", tmp_path / "bench", *more, "--out", tmp_path / "out")


@pytest.fixture(scope="module")
def line(tmp_path_factory, easel, features):
    home = tmp_path_factory.mktemp("line")
    save(easel.painter, home / "painter.safetensors")
    save_file(features.recogniser.state_dict(), home / "eyes.safetensors")
    return {"painter": str(home / "painter.safetensors"), "eyes": str(home / "eyes.safetensors")}


def test_the_command_paints_measures_and_goes_on(bench, real, line, tiny, tmp_path, capsys):
    (tmp_path / "words.txt").write_text("".join(f"{number:012d} owl\n" for number in NUMBERS))
    words = ["--methods", "painter", "paste-harmonise", "blended-text", "--painter", line["painter"]]
    words += ["--features", line["eyes"], "--real", str(real), "--steps", "1", *tiny, "--out", str(tmp_path / "out")]
    words += ["--words", str(tmp_path / "words.txt"), "--tasks", "2"]
    assert main(["evaluate", "--cocoee", str(bench), *words]) == 0
    said = capsys.readouterr().out
    assert "## COCOEE: 2 tasks" in said and "| blended-text |" in said and "cocoee.json" in said
    left = files(tmp_path / "out")
    assert {"cocoee.json", "cocoee.md", "cocoee.png", "painter/results/000000000785.png"} <= set(left)
    assert main(["evaluate", "--cocoee", str(bench), *words]) == 0
    assert files(tmp_path / "out") == left and capsys.readouterr().out == said


def test_processes_of_torchrun_share_the_pictures(bench, line, tmp_path, capsys, monkeypatch):
    """Each does its own, and the one that finishes last measures."""
    words = ["evaluate", "--cocoee", str(bench), "--methods", "paste-harmonise", "--features", line["eyes"]]
    words += ["--quiet", "--device", "cpu", "--out", str(tmp_path / "out")]
    for rank, done, said in (("1", 1, "2 results are still missing"), ("0", 3, "## COCOEE: 3 tasks")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main(words) == 0
        assert said in capsys.readouterr().out
        assert len([name for name in files(tmp_path / "out") if "results/" in name]) == done


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "photoswap"], "no prompts to swap by"),
        (["--methods", "blended-text"], "nobody said what the pictures show: give --words"),
        ([], "give its file with --painter"),
        (["--split", "test"], "--split changes nothing with --cocoee"),
        (["--mixture", "a.safetensors"], "--mixture changes nothing without --real"),
        (["--methods", "paste-harmonise", "--real", "."], "has no pictures to compare with"),
        (["--methods", "paste-harmonise", "--words", "words.txt"], "is no number with a class"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words, sentence, bench, line, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("no number\n")
    more = ["--features", line["eyes"], *tiny, "--out", tmp_path / "out"]
    assert sentence in refused(capsys, "evaluate", "--cocoee", bench, *words, *more)
    assert not (tmp_path / "out").exists()


def test_what_the_command_knows_beforehand_is_what_is_written():
    assert evaluate_cocoee.COCOEE_OUTPUTS == cocoee_report.COCOEE_FILES
