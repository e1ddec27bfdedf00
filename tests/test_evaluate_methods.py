"""photoswap.evaluate_methods: every method learns, is opened from its file, swapped in, and told of in a line."""

import re

import pytest
from PIL import Image

from photoswap import evaluate_methods as measure
from photoswap.benchmark.tasks import make_task
from photoswap.methods import Photoswap
from train.config import CONFIGS, learn_config
from train.methods import method_of

LINE = re.compile(r"\| (\S+) \| ([\d,]+) \| 1 \| \d+ \| \d+ \| `(\S+)`, [\d.]+ [kM]B \| .* dB \| .* dB \| \d+% \|")


@pytest.fixture
def short(monkeypatch):
    """Swaps of two steps, and learning of one."""
    monkeypatch.setattr(measure.swapped_in, "__defaults__", (Photoswap.scaled(2), False))
    return [learn_config(name, "miniature", "cat", steps=1, batch=1, **_few(name)) for name in CONFIGS]


def _few(name: str) -> dict:
    return {} if name == "textual-inversion" else {"class_pictures": 1, "class_steps": 1}


def test_every_method_has_its_line_and_its_picture(short, tmp_path, capsys):
    model = measure.load("miniature")
    picture = measure.compare(model, short, tmp_path, progress=False)
    lines = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    found = [(line[1], line[3]) for line in lines if line]
    assert found == [(config.method, method_of(config).file) for config in short]
    numbers = {line[1]: int(line[2].replace(",", "")) for line in lines if line}
    assert numbers["textual-inversion"] == 4 * 64 < numbers["custom-diffusion"] < numbers["lora"]
    assert isinstance(picture, Image.Image) and picture.width > 7 * measure.SHOWN_SIDE


def test_what_was_learnt_is_not_learnt_again(short, tmp_path, monkeypatch):
    model, task = measure.load("miniature"), make_task()
    word = next(config for config in short if config.method == "textual-inversion")
    file = measure.learnt_file(model, task, word, tmp_path, False)
    before = file.read_bytes()
    monkeypatch.setattr(measure, "learn", lambda *_, **__: pytest.fail("learnt again"))
    assert measure.learnt_file(model, task, word, tmp_path, False).read_bytes() == before
