"""Rows of a painter's training that are made once: the same rows, whoever made them, and none of another run."""

from dataclasses import replace

import pytest
import torch
from command_line import leave_behind
from PIL import Image
from test_paint_training import SOURCE, TRAINING, losses_of_two, small_config, tensors
from tiny_model import tiny_model

import train.paint.kept
from train.paint import start_from
from train.paint.examples import FolderPictures, WorldPictures, row_of
from train.paint.kept import KeptRows, keep_rows
from train.paint.learn import ROWS_FOLDER, train_painter
from train.paint.step import EncodedExample, encoded, prepared
from train.parallel import ALONE

KEPT = replace(TRAINING, kept=5)


@pytest.fixture(autouse=True)
def short_files(monkeypatch):
    monkeypatch.setattr(train.paint.kept, "ROWS_IN_A_FILE", 2)


def painter():
    return start_from(tiny_model(), small_config(), seed=1)


def kept(model, folder, count=5, seed=0, source=SOURCE):
    return keep_rows(model, source, folder, count=count, seed=seed, size=64, team=ALONE, progress=False)


def test_a_kept_row_is_the_row_that_was_made(tmp_path):
    model = painter()
    rows = KeptRows(kept(model, tmp_path), 5, 0, range(2))
    for i in range(5):
        anew = encoded(model, row_of(SOURCE, 0, i, 0, 64, 32))
        for name in EncodedExample.__annotations__:
            assert torch.equal(getattr(rows.example(i), name), getattr(anew, name)), (i, name)
    assert len({rows.example(i).reference.sum().item() for i in range(5)}) == 5


def test_shown_again_it_has_other_noise(tmp_path):
    """What the networks get of a kept row is what they get of the same row made anew, and a new draw the next time."""
    model = painter()
    row = KeptRows(kept(model, tmp_path), 5, 0, range(1)).example(3)

    def given(example, seed):
        return prepared(model, [example], [torch.Generator().manual_seed(seed)])

    anew = given(row_of(SOURCE, 0, 3, 0, 64, 32), 7)
    assert all(torch.equal(found, wanted) for found, wanted in zip(given(row, 7), anew, strict=True))
    latents, _, keep, _ = given(row, 8)
    assert not torch.equal(latents, anew[0]) and torch.equal(keep, anew[2])


def test_in_float64_latents_are_float64_kept_or_not(tmp_path):
    model = painter()
    model.vae.double()
    anew = row_of(SOURCE, 0, 3, 0, 64, 32)
    wanted = model.encode_image(anew.image[None], torch.Generator().manual_seed(7))
    for example in (anew, KeptRows(kept(model, tmp_path), 5, 0, range(1)).example(3)):
        latents, rest, *_ = prepared(model, [example], [torch.Generator().manual_seed(7)])
        assert latents.dtype == rest.dtype == torch.float64
        assert torch.equal(latents, wanted)


def test_every_row_is_shown_and_each_step_has_its_own(tmp_path):
    rows = KeptRows(kept(painter(), tmp_path), 5, 0, range(2))
    names = {rows.example(i).image.sum().item(): i for i in range(5)}
    shown = [[names[example.image.sum().item()] for example in rows[step]] for step in range(40)]
    assert {i for step in shown for i in step} == set(range(5))
    assert len({tuple(step) for step in shown}) > 10
    second = KeptRows([tmp_path / "00000.pt", tmp_path / "00001.pt", tmp_path / "00002.pt"], 5, 0, range(1, 2))
    assert [[names[example.image.sum().item()] for example in second[step]] for step in range(40)] == [
        step[1:] for step in shown
    ]


def test_a_stopped_run_goes_on_with_the_files_that_are_there(tmp_path, monkeypatch):
    whole = [file.read_bytes() for file in kept(painter(), tmp_path / "one")]
    made, make = [], train.paint.kept.row_of

    def stops(source, seed, index, *sizes):
        made.append(index)
        if made == [0, 1, 2]:
            raise KeyboardInterrupt
        return make(source, seed, index, *sizes)

    monkeypatch.setattr(train.paint.kept, "row_of", stops)
    with pytest.raises(KeyboardInterrupt):
        kept(painter(), tmp_path / "two")
    assert [file.name for file in (tmp_path / "two").iterdir()] == ["00000.pt"]
    kept(painter(), tmp_path / "two")
    leave_behind(tmp_path / "two")
    files = kept(painter(), tmp_path / "two")
    assert sorted((tmp_path / "two").iterdir()) == files
    assert made == [0, 1, 2, 2, 3, 4]
    assert [file.read_bytes() for file in files] == whole


@pytest.mark.parametrize("other", [{"seed": 1}, {"source": WorldPictures(side=64, seed=9)}, {"count": 4}, {"count": 6}])
def test_rows_of_another_run_are_refused(other, tmp_path):
    kept(painter(), tmp_path)
    if other == {"count": 4}:  # whole files of the same rows: they are the beginning
        assert len(kept(painter(), tmp_path, **other)) == 2
        return
    with pytest.raises(ValueError, match="has rows of other pictures, numbers or weights"):
        kept(painter(), tmp_path, **other)


def test_rows_follow_from_the_autoencoder_alone(tmp_path):
    """A painter with another tower takes them, one with another autoencoder does not."""
    kept(painter(), tmp_path)
    other = start_from(tiny_model(), small_config(), seed=2)
    dates = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert dates == {file: file.stat().st_mtime_ns for file in kept(other, tmp_path)}
    next(other.vae.parameters()).data.add_(1)
    with pytest.raises(ValueError, match="has rows of other pictures, numbers or weights"):
        kept(other, tmp_path)


@pytest.mark.parametrize("damage", [b"", b"no tensors", slice(0, 900)])
def test_a_damaged_file_is_refused(damage, tmp_path):
    file = kept(painter(), tmp_path)[1]
    file.write_bytes(file.read_bytes()[damage] if isinstance(damage, slice) else damage)
    with pytest.raises(ValueError, match=r"00001\.pt is damaged; delete it"):
        kept(painter(), tmp_path)


def test_learning_from_kept_rows_is_resumed_to_the_bit(tmp_path):
    complete, halved, again = painter(), painter(), painter()
    losses = train_painter(complete, SOURCE, KEPT, tmp_path / "one", progress=False).losses
    with pytest.raises(KeyboardInterrupt):
        train_painter(halved, SOURCE, KEPT, tmp_path / "two", progress=False, on_step=stop_at(2))
    dates = {file: file.stat().st_mtime_ns for file in (tmp_path / "two" / ROWS_FOLDER).iterdir()}
    rest = train_painter(again, SOURCE, KEPT, tmp_path / "two", resume=True, progress=False).losses
    assert len(dates) == 3 and dates == {file: file.stat().st_mtime_ns for file in dates}
    assert rest == losses[2:]
    assert all(torch.equal(tensor, tensors(again)[name]) for name, tensor in tensors(complete).items())


def stop_at(last):
    def stop(step, loss):
        if step == last:
            raise KeyboardInterrupt

    return stop


def test_kept_rows_are_not_made_ahead(tmp_path):
    with pytest.raises(ValueError, match="leave makers or kept out"):
        train_painter(painter(), SOURCE, KEPT, tmp_path, progress=False, makers=1)
    assert not list(tmp_path.iterdir())


def test_the_rate_falls_in_a_line_at_the_end():
    training = replace(TRAINING, steps=100, warm=10, cool=20, learning_rate=1e-3)
    assert training.rate(79) == training.rate(80) == pytest.approx(1e-3)
    assert training.rate(90) == pytest.approx(5e-4) and training.rate(99) == pytest.approx(5e-5)
    with pytest.raises(ValueError, match="want 0 to 100 steps"):
        replace(training, cool=101)
    with pytest.raises(ValueError, match="no negative"):
        replace(training, kept=-1)


def test_a_falling_rate_wants_the_same_end(tmp_path):
    cooled = replace(TRAINING, cool=2)
    with pytest.raises(KeyboardInterrupt):
        train_painter(painter(), SOURCE, cooled, tmp_path, progress=False, on_step=stop_at(1))
    with pytest.raises(ValueError, match="begun otherwise: steps was 3 and is 4"):
        train_painter(painter(), SOURCE, replace(cooled, steps=4), tmp_path, resume=True, progress=False)


SHARED = """
import sys
import train.paint.kept
train.paint.kept.ROWS_IN_A_FILE = 2
from test_paint_kept import KEPT, SOURCE, painter, train_painter
print("losses", *map(repr, train_painter(painter(), SOURCE, KEPT, sys.argv[1], progress=False).losses), flush=True)
"""


def test_two_processes_make_a_share_each_and_learn_what_one_does(tmp_path):
    alone = train_painter(painter(), SOURCE, KEPT, tmp_path / "one", progress=False).losses
    lines = losses_of_two(SHARED, tmp_path, tmp_path / "two")
    assert len(lines) == 2 and lines[0] == lines[1]
    assert [float(loss) for loss in lines[0]] == pytest.approx(alone, rel=1e-6)
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / n / ROWS_FOLDER).iterdir()} for n in ("one", "two")
    )
    assert one == two


def test_pictures_and_boxes_of_a_folder_are_told_from_others(tmp_path):
    def about(side, box):
        Image.new("RGB", (side, 64), "red").save(tmp_path / "a.png")
        (tmp_path / "a.txt").write_text(box)
        return FolderPictures(tmp_path, tmp_path).about

    first = about(64, "0 0 40 40")
    assert first == about(64, "0 0 40 40")
    assert len({first, about(64, "0 0 40 41"), about(200, "0 0 40 40")}) == 3
    assert WorldPictures(side=64).about != WorldPictures(side=128).about
