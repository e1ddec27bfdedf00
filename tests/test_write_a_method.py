"""The page "write your own method" runs as it is written, and prints what it says it prints."""

import re
from pathlib import Path

import pytest
import torch
from swap_model import picture
from tiny_model import tiny_model

from models import MINIATURE, UNet
from photoswap.injections import as_table, timeline

PAGE = (Path(__file__).parent.parent / "docs" / "write-a-method.md").read_text(encoding="utf-8")
METHOD, LATENTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PRINTED,) = re.findall(r"```\n(steps.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.setattr("weights.load.load", lambda name: tiny_model())
    monkeypatch.chdir(tmp_path)


def test_a_method_in_twenty_lines(capsys):
    assert len([line for line in METHOD.splitlines() if line]) <= 20
    picture().save("scene.png")
    names = {}
    exec(METHOD, names)
    assert Path("swapped.png").is_file() and "10 cross sites" in capsys.readouterr().out  # of the tiny model
    with torch.device("meta"):
        sites = UNet(MINIATURE.unet).sites
    assert as_table(timeline(names["method"].injections, 50, sites, (16, 16))) == PRINTED.rstrip("\n")


def test_the_loop_on_latents_alone(capsys):
    with torch.no_grad():
        exec(LATENTS, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 50 and lines[0].startswith(
        "0 ['uncond source', 'uncond target', 'cond source', 'cond target']"
    )
