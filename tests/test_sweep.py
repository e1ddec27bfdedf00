"""Grids of settings: each cell as if swapped alone, fewer rows than that takes, and the command's files."""

import json
import math
import sys

import pytest
from command_line import PROMPT, files, refused
from PIL import Image
from swap_model import SOURCE, TARGET, picture
from test_targets import STEPS, double_model, inverted
from tiny import distance

from photoswap.__main__ import main
from photoswap.benchmark.tasks import make_task
from photoswap.figures.sweep import SCORES, Cell, Sweep, draw_curves, lines, points, scores_of, sweep, sweep_grid
from photoswap.methods import METHODS, Photoswap
from photoswap.pipeline import SwapRequest, rows_alone, swap_all


@pytest.fixture(scope="module")
def model(device):
    return double_model(device)


@pytest.fixture(scope="module")
def request_(model):
    inversion = inverted(model, picture(), SOURCE, size=(64, 64))
    return SwapRequest(inversion, TARGET, Photoswap.scaled(STEPS), source_word="cat", target_word="sks cat")


@pytest.fixture(scope="module")
def found(model, request_):
    return sweep(model, request_, {"phi": (0, 3), "A": (1,), "M": (0, 2, 4)})


def test_every_cell_is_the_swap_of_its_settings(model, request_, found):
    assert list(found.varied) == ["A", "phi", "M"] and found.names == ["phi", "M"]
    wanted = [(1, 0, 0), (1, 0, 2), (1, 0, 4), (1, 3, 0), (1, 3, 2), (1, 3, 4)]
    assert [tuple(cell.settings.values()) for cell in found.cells] == wanted
    apart = 0
    for cell in found.cells[1::2]:
        method = Photoswap(steps=STEPS, **cell.settings)
        (alone,) = swap_all(model, [SwapRequest(request_.inversion, TARGET, method)])
        assert distance(cell.result.target_latents, alone.target_latents) < 1e-10
    for cell in found.cells:
        apart += rows_alone(model, SwapRequest(request_.inversion, TARGET, Photoswap(steps=STEPS, **cell.settings)))
    assert found.row_calls_apart == apart > found.row_calls


def test_fewer_at_once_share_less_and_change_nothing(model, request_, found):
    few = sweep(model, request_, found.varied, at_once=2)
    assert found.row_calls < few.row_calls < few.row_calls_apart == found.row_calls_apart
    for one, other in zip(few.cells, found.cells, strict=True):
        assert distance(one.result.target_latents, other.result.target_latents) < 1e-10


@pytest.mark.parametrize("name", ["prompt-to-prompt", "plug-and-play", "masactrl", "inversion-free", "sdedit"])
def test_rows_are_counted_without_a_run(model, request_, name):
    one = SwapRequest(request_.inversion, TARGET, METHODS[name].scaled(STEPS))
    assert rows_alone(model, one) == swap_all(model, [one])[0].settings["row_calls"]


def test_what_is_no_sweep(model, request_):
    with pytest.raises(ValueError, match="nothing varies"):
        points({})
    with pytest.raises(ValueError, match="1000 combinations are asked for; want at most 400"):
        points({"phi": range(10), "M": range(10), "A": range(10)})
    with pytest.raises(ValueError, match="names no method"):
        sweep(model, SwapRequest(request_.inversion, TARGET), {"phi": (1, 2)})


def test_grid_and_curves(found):
    blank = Image.new("RGB", (64, 64))
    sheet, taller = sweep_grid(found, blank, blank, side=50), sweep_grid(found, blank, side=50)
    assert sheet.width > 5 * 50 > taller.width > 4 * 50 and sheet.height == taller.height > 2 * 50
    scores = [{"background": float(i)} for i in range(5)] + [{"background": math.inf}]
    axis, curves = lines(found, scores, "background")
    assert axis == "M" and curves["phi 0"] == ([0, 2, 4], [0, 1, 2])
    assert curves["phi 3"][0] == [0, 2, 4] and curves["phi 3"][1][:2] == [3, 4] and math.isnan(curves["phi 3"][1][2])
    one = Sweep({"phi": (1,)}, (Cell({"phi": 1}, found.cells[0].result),), 1, 1)
    assert lines(one, scores[:1], "background") == ("phi", {"": ([1], [0])}) and one.names == ["phi"]


def test_scores_know_the_truth_from_the_source():
    task = make_task(0)
    best, worst = scores_of(task, task.truth.image), scores_of(task, task.source.image)
    assert best["subject"] == math.inf and best["subject ssim"] == pytest.approx(1) and best["palette"] == 1
    assert worst["background"] == math.inf and worst["subject"] < 20 and worst["palette"] < 0.5


def test_the_command_on_a_picture(tiny, pictures, tmp_path, capsys):
    line = ["sweep", str(pictures / "source.png"), "--prompt", PROMPT, "--subject", "dog", "--target", "cat"]
    some = ["--steps", "2", "--size", "64", *tiny]
    assert main([*line, *some, "--phi", "0,1", "--set", "align=tokens,index", "--out", str(tmp_path / "a")]) == 0
    assert files(tmp_path / "a") == ["sweep.json", "sweep.png"]
    assert "4 swaps: " in capsys.readouterr().out
    record = json.loads((tmp_path / "a" / "sweep.json").read_text())
    assert [cell["settings"] for cell in record["cells"]][1] == {"phi": 0, "align": "index"}
    assert record["row_calls"] < record["row_calls_apart"] and "scores" not in record["cells"][0]


@pytest.mark.filterwarnings("default")  # as in a terminal, where it is a sentence
def test_the_command_on_a_task_without_matplotlib(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    line = ["sweep", "--task", "demo-0", "--phi", "0,2", "--steps", "2", *tiny, "--out", str(tmp_path / "out")]
    assert main(line) == 0
    assert files(tmp_path / "out") == ["sweep.json", "sweep.png"]
    assert "no curves.png: curves want matplotlib: pip install" in capsys.readouterr().err
    cells = json.loads((tmp_path / "out" / "sweep.json").read_text())["cells"]
    assert cells[0]["scores"]["background"] != cells[1]["scores"]["background"]


def test_curves_are_drawn(found):
    pytest.importorskip("matplotlib", reason="the extra `plots` draws curves")
    scores = [dict.fromkeys(SCORES, float(i)) for i in range(6)]
    figure = draw_curves(found, scores)
    assert [place.get_title() for place in figure.axes] == list(SCORES.values())
    drawn = [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines]
    assert drawn == [("phi 0", [0, 2, 4], [0, 1, 2]), ("phi 3", [0, 2, 4], [3, 4, 5])]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--task", "demo-0"], "nothing varies"),
        (["--task", "demo", "--phi", "1"], "no task 'demo'; want demo-0"),
        (["--task", "dev-cake-1", "--phi", "1"], "no kind of task 'cake'"),
        (["--task", "demo-0", "--phi", "1,51"], "phi is 51; want a whole number of steps, 0..50"),
        (["--task", "demo-0", "--set", "cake=1,2"], "photoswap has no setting cake"),
        (["--task", "demo-0", "--set", "phi=1,a"], "is of the wrong kind"),
        (["--task", "demo-0", "--set", "phi="], "has no values"),
        (["--task", "demo-0", "--method", "swap-anything", "--phi", "1"], "wants a mask, which a sweep has not"),
        (["--prompt", "a dog", "--phi", "1"], "say with --subject"),
    ],
)
def test_what_is_refused(flags, sentence, tiny, tmp_path, capsys):
    assert sentence in refused(capsys, "sweep", *flags, *tiny, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
