"""models.threads: as many threads as the work is worth, unless somebody chose, and torch's number put back."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from PIL import Image
from tiny_model import tiny_model

import models.threads
import photoswap
from models.config import MODELS
from models.threads import (
    QUOTA,
    WORTH_A_TEAM,
    cores_allowed,
    layer_work,
    spare_cores,
    suited,
    suited_threads,
    usual_numbers,
)
from photoswap.masks import find_subject
from tests.benchmarks.threads import CORES, MINE, SETTINGS, report
from train.prior import SampleSettings, sample_pictures
from weights.load import meta_model

PICTURE = Image.new("RGB", (128, 128), "green")


@pytest.fixture
def two(monkeypatch):
    """A machine of two cores where nobody has chosen a number."""
    before = torch.get_num_threads()
    monkeypatch.setattr(models.threads, "usual_numbers", lambda: {2})
    monkeypatch.setattr(models.threads, "QUOTA", QUOTA / "none")
    for name in models.threads.CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small():
    return tiny_model()


@pytest.fixture(scope="module")
def large(small):
    model = tiny_model()
    model.config = MODELS["sd21-base"]
    return model


def test_published_models_are_worth_a_team_and_the_miniature_is_not():
    assert layer_work(MODELS["sd21-base"]) == 18 * 320**2 * 64**2
    for name, config in MODELS.items():
        assert (layer_work(config) > WORTH_A_TEAM) == (name != "miniature"), name


def test_the_number_goes_by_the_model(two, small, large):
    assert (suited(small, 2), suited(large, 2)) == (1, 2)


def test_a_core_is_idle_beside_one_thread_that_nobody_chose(two, small, large, monkeypatch):
    assert (spare_cores(small), spare_cores(large)) == (1, 0)
    with suited_threads(small):
        assert spare_cores(small) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert spare_cores(small) == 0
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(models.threads, "cores_allowed", lambda most: 1)
    assert spare_cores(small) == 0
    torch.set_num_threads(1)
    assert spare_cores(small) == 0


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_environment_wins(two, small, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    assert suited(small, 2) == 2


def test_a_number_that_torch_would_not_take_wins(two, small, large):
    assert (suited(small, 3), suited(large, 1)) == (3, 1)


def test_other_devices_keep_torch_s_number(two):
    assert suited(meta_model(MODELS["miniature"]), 2) == 2


@pytest.mark.parametrize(
    ("told", "cores"), [("300000 100000", 3), ("250000 100000", 3), ("50000 100000", 1), ("max 100000", 8), (None, 8)]
)
def test_the_quota_of_a_container(tmp_path, monkeypatch, told, cores):
    place = tmp_path / "cpu.max"
    if told:
        place.write_text(f"{told}\n")
    monkeypatch.setattr(models.threads, "QUOTA", place)
    assert cores_allowed(8) == cores


def test_torch_takes_one_of_the_usual_numbers():
    """In a process where nobody has chosen."""
    code = "import torch; print(torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name not in models.threads.CHOSEN_BY}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(told.stdout) in usual_numbers()


def test_the_number_is_put_back(two, small, large):
    with suited_threads(small):
        assert torch.get_num_threads() == 1
        with suited_threads(large):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), suited_threads(small):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_a_thread_that_begins_within_another_s_scope(two, small, large):
    seen = []

    def other():
        with suited_threads(large):
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    with suited_threads(small):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [2, 2]
    assert torch.get_num_threads() == 2


def learn(model):
    config = photoswap.dreambooth_config("sd21", "cat", steps=1, prior_weight=0, size=64)
    photoswap.learn(model, PICTURE, config, progress=False)


def swap(model):
    source = photoswap.invert(model, PICTURE, "a dog", steps=2)
    photoswap.swap(model, source, "a cat")


DOORS = {
    "generate": lambda model: photoswap.generate(model, "a dog", 0, steps=1),
    "swap": swap,
    "learn": learn,
    "find": lambda model: find_subject(model, PICTURE, "a dog", "dog"),
    "sample": lambda model: sample_pictures(model, "a dog", SampleSettings(64, 1)),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_computes_with_the_suited_number(two, small, door):
    seen = set()
    networks = [small.unet, small.vae.encoder, small.vae.decoder, small.text_encoder]
    handles = [net.register_forward_pre_hook(lambda *_: seen.add(torch.get_num_threads())) for net in networks]
    try:
        DOORS[door](small)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == {1}
    assert torch.get_num_threads() == 2


def test_the_table_tells_a_default_that_breaks_down():
    good = {("sample", count, name): 0.6 + 0.3 * count for count in (0, 2) for name in SETTINGS}
    told, fine = report(good | {("sample", 2, "all cores"): 9.0}, ["sample"], [0, 2])
    assert fine and "| sample | all cores | 0.60 s (1.00) | 9.00 s (" in told
    assert not report(good | {("sample", 2, MINE): 0.6 * 2.6 * max(1, 3 / CORES)}, ["sample"], [0, 2])[1]
    assert not report(good | {("sample", 0, MINE): 0.8}, ["sample"], [0, 2])[1]
