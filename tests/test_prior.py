"""train.prior: class pictures are the model's own, drawn once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import tiny_model

import train.prior
from models.images import load_image
from train.prior import CLASS_VARIABLE, SampleSettings, class_picture_folder, class_pictures, sample_pictures
from weights.lock import locked

SETTINGS = SampleSettings(size=64, steps=2, guidance_scale=2.0)


@pytest.fixture(scope="module")
def model(device):
    model = tiny_model()
    for network in (model.unet, model.vae, model.text_encoder):
        network.to(device)
    return model


@pytest.fixture
def drawn(monkeypatch):
    """The indices that were really drawn."""
    indices = []

    def spy(model, prompt, settings, chunk):
        indices.extend(chunk)
        return sample_pictures(model, prompt, settings, chunk)

    monkeypatch.setattr(train.prior, "sample_pictures", spy)
    return indices


def pixels(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def test_a_picture_is_its_seed_whatever_it_is_drawn_with(model):
    together = pixels(sample_pictures(model, "a cat", SETTINGS, (0, 1)))
    alone = pixels(sample_pictures(model, "a cat", replace(SETTINGS, seed=1)))
    assert together.shape == (2, 64, 64, 3)
    assert np.abs(together[1] - alone[0]).max() <= 1  # another batch may round to the neighbouring level
    assert np.abs(together[0] - together[1]).max() > 20


def test_guidance_and_prompt_make_a_difference(model):
    pictures = [
        sample_pictures(model, prompt, replace(SETTINGS, guidance_scale=scale))[0]
        for prompt, scale in [("a cat", 1.0), ("a cat", 2.0), ("a cat", 7.5), ("a house", 1.0)]
    ]
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_drawing_leaves_no_trace(model):
    state = torch.get_rng_state()
    sample_pictures(model, "a cat", SETTINGS)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.unet.parameters())


def test_pictures_are_drawn_once_and_more_are_added(model, tmp_path, drawn):
    first = class_pictures(model, "a cat", 3, SETTINGS, tmp_path, batch=2, progress=False)
    assert drawn == [0, 1, 2]
    again = class_pictures(model, "a cat", 3, SETTINGS, tmp_path, progress=False)
    assert drawn == [0, 1, 2]
    assert np.array_equal(pixels(first), pixels(again))
    more = class_pictures(model, "a cat", 5, SETTINGS, tmp_path, progress=False)
    assert drawn == [0, 1, 2, 3, 4]
    assert np.array_equal(pixels(more[:3]), pixels(first))


def test_a_damaged_picture_is_drawn_again(model, tmp_path, drawn):
    class_pictures(model, "a cat", 2, SETTINGS, tmp_path, progress=False)
    file = next(tmp_path.glob("*/0001.png"))
    file.write_bytes(file.read_bytes()[:100])
    class_pictures(model, "a cat", 2, SETTINGS, tmp_path, progress=False)
    assert drawn == [0, 1, 1]
    assert load_image(file).size == (64, 64)


def test_an_interrupted_run_goes_on_where_it_stopped(model, tmp_path, monkeypatch, drawn):
    spy = train.prior.sample_pictures

    def stop(model, prompt, settings, chunk):
        if 2 in chunk:
            raise KeyboardInterrupt
        return spy(model, prompt, settings, chunk)

    monkeypatch.setattr(train.prior, "sample_pictures", stop)
    with pytest.raises(KeyboardInterrupt):
        class_pictures(model, "a cat", 4, SETTINGS, tmp_path, batch=1, progress=False)
    monkeypatch.setattr(train.prior, "sample_pictures", spy)
    class_pictures(model, "a cat", 4, SETTINGS, tmp_path, batch=1, progress=False)
    assert drawn == [0, 1, 2, 3]


def test_another_model_prompt_or_way_of_drawing_has_its_own_pictures(model, tmp_path, drawn):
    others = [
        (model, "a cat", SETTINGS),
        (model, "a dog", SETTINGS),
        (model, "a cat", replace(SETTINGS, steps=3)),
        (model, "a cat", replace(SETTINGS, seed=9)),
        (model, "a cat", replace(SETTINGS, guidance_scale=3.0)),
        (model, "a cat", replace(SETTINGS, bfloat16=True)),
    ]
    for kind in others:
        class_pictures(kind[0], kind[1], 1, kind[2], tmp_path, progress=False)
    with torch.no_grad():
        model.unet.conv_in.bias[0] += 1
    class_pictures(*others[0][:2], 1, SETTINGS, tmp_path, progress=False)
    with torch.no_grad():
        model.unet.conv_in.bias[0] -= 1
    assert len(drawn) == len(list(tmp_path.iterdir())) == 7


def test_runs_that_want_the_same_pictures_draw_them_once_between_them(model, tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(train.prior, "WAIT", 0.01)
    with ThreadPoolExecutor(
        3
    ) as pool:  # a lock is of a file opened once, so threads shut each other out as processes do
        runs = [
            pool.submit(class_pictures, model, "a cat", 3, SETTINGS, tmp_path, batch=1, progress=False)
            for _ in range(3)
        ]
        found = [pixels(run.result()) for run in runs]
    assert sorted(drawn) == [0, 1, 2]
    assert all(np.array_equal(found[0], other) for other in found)
    assert not list(tmp_path.rglob("lock"))


def test_pictures_that_are_there_are_read_without_a_lock(model, tmp_path, drawn, monkeypatch):
    class_pictures(model, "a cat", 2, SETTINGS, tmp_path, progress=False)
    monkeypatch.setattr(train.prior, "locked", None)
    class_pictures(model, "a cat", 2, SETTINGS, tmp_path, progress=False)
    assert drawn == [0, 1]


def test_the_lock_of_a_run_that_was_killed_with_its_last_picture_drawn_goes(model, tmp_path):
    class_pictures(model, "a photo of a cat", 1, SETTINGS, tmp_path, progress=False)
    (home,) = tmp_path.iterdir()
    with locked(home / "lock"):  # of a living one it stays
        class_pictures(model, "a photo of a cat", 1, SETTINGS, tmp_path, progress=False)
        assert (home / "lock").exists()
    (home / "lock").touch()
    class_pictures(model, "a photo of a cat", 1, SETTINGS, tmp_path, progress=False)
    assert [path.name for path in home.iterdir()] == ["0000.png"]


def test_a_run_that_waits_says_for_whom(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.prior, "WAIT", 0.01)
    home = tmp_path / train.prior.class_key(model, "a cat", SETTINGS)
    home.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with locked(home / "lock"):
            run = pool.submit(class_pictures, model, "a cat", 1, SETTINGS, tmp_path)
            while not (told := capsys.readouterr().err):
                assert not run.done()
        run.result()
    assert "waiting for process" in told and "draws the same pictures" in told


def test_where_all_concepts_share_their_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv(CLASS_VARIABLE, str(tmp_path / "shared"))
    assert class_picture_folder(None) == tmp_path / "shared"
    monkeypatch.delenv(CLASS_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert class_picture_folder(None) == tmp_path / ".cache" / "photoswap" / "class-pictures"


def test_a_shared_folder_that_cannot_be_written_to_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(CLASS_VARIABLE, str(tmp_path / "file" / "shared"))
    assert class_picture_folder(tmp_path / "class") == tmp_path / "class"
    monkeypatch.setenv(CLASS_VARIABLE, str(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert class_picture_folder(tmp_path / "class") == tmp_path / "class"


def test_without_a_folder_nothing_is_kept(model, tmp_path, monkeypatch, drawn):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        class_pictures(model, "a cat", 1, SETTINGS, progress=False)
    assert drawn == [0, 0] and not list(tmp_path.iterdir())


def test_a_size_the_model_cannot_draw_is_refused(model):
    with pytest.raises(ValueError, match="multiple of 64"):
        sample_pictures(model, "a cat", replace(SETTINGS, size=100))
