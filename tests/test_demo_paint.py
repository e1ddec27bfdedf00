"""The demo without learning: one grid and its scores; without weights, how to come by them."""

import numpy as np
import pytest
from command_line import refused
from PIL import Image
from test_paint_training import small_config
from tiny_model import tiny_model

from photoswap.__main__ import main
from photoswap.benchmark.painted import room_for
from photoswap.benchmark.tasks import make_task
from photoswap.commands import demo
from photoswap.demo_paint import run_paint_demo
from train.paint import start_from
from weights.load import save


@pytest.fixture(scope="module")
def painter():
    return start_from(tiny_model(), small_config(), seed=1)


def test_the_demo_paints_in_the_old_subject_s_box(painter, tmp_path, capsys):
    painted = run_paint_demo(painter, tmp_path / "demo.png", seed=2, steps=2, progress=False)
    task = make_task(2)
    moved = np.any(np.array(painted.result) != np.array(task.source.image), axis=-1)
    inside = np.array(room_for(task.source.masks[0])) > 0
    assert not moved[~inside].any() and moved[inside].mean() > 0.5
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 5 * 256 and picture.height > 256
    said = capsys.readouterr().out
    for what in ("background kept", "subject to the truth", "paint ", str(tmp_path / "demo.png")):
        assert what in said


def test_the_command_takes_the_painter_that_is_there(painter, tmp_path, monkeypatch, capsys):
    file = tmp_path / "miniature-paint.safetensors"
    monkeypatch.setattr("weights.published.MINIATURE_PAINTER", file)
    line = ["demo", "--paint", "--device", "cpu", "--quiet", "--out", tmp_path / "demo.png"]
    told = refused(capsys, *line)
    assert "python -m train.paint --out runs/paint" in told and "--model runs/paint/painter.safetensors" in told
    save(painter, file)
    monkeypatch.setattr("photoswap.demo_paint.run_paint_demo", lambda model, *_, **__: print(model.config.name))
    assert main([str(word) for word in line]) == 0
    assert main([*map(str, line), "--model", str(file)]) == 0
    assert capsys.readouterr().out == "tiny-paint\n" * 2


def test_what_draws_whole_pictures_is_refused(tiny, tmp_path, capsys):
    assert "context is text" in refused(capsys, "demo", "--paint", *tiny, "--out", tmp_path / "demo.png")


def test_help_shows_it():
    assert "photoswap demo --paint" in (demo.__doc__ or "")
