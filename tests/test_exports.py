"""What `photoswap` exports: the README's ten lines run as they are written, and importing costs nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from swap_model import picture
from tiny_model import tiny_model

import photoswap
from train.config import DreamBoothConfig

ROOT = Path(__file__).parent.parent


def ten_lines():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if "from photoswap import" in block]
    return found


def test_the_ten_lines_of_the_readme(tmp_path, monkeypatch):
    """As written, on a tiny model that learns for two steps."""
    assert len([line for line in ten_lines().splitlines() if line]) <= 10
    folder = tmp_path / "cat-photos"
    folder.mkdir()
    for i in range(3):
        picture(seed=i).save(folder / f"{i}.png")
    picture().save(tmp_path / "scene.png")
    config = DreamBoothConfig("cat", steps=2, class_pictures=2, class_steps=2, prior_weight=1.0, learning_rate=1e-4)
    monkeypatch.setattr("weights.load.load", lambda name: tiny_model())
    monkeypatch.setattr("train.config.dreambooth_config", lambda name, word: config)
    monkeypatch.chdir(tmp_path)
    exec(ten_lines(), {})
    assert (tmp_path / "swapped.png").is_file()


def test_every_name_is_there():
    assert all(getattr(photoswap, name) is not None for name in photoswap.__all__)
    with pytest.raises(AttributeError, match="'swop'; it has METHODS, Photoswap"):
        photoswap.swop  # noqa: B018


def test_importing_it_loads_no_network():
    code = "import sys, photoswap; sys.exit('torch' in sys.modules or 'photoswap.pipeline' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_of_ours_hides_no_function():
    """A submodule imported elsewhere becomes an attribute of its package, whatever the package exports."""
    modules = {path.stem for path in (ROOT / "photoswap").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(photoswap.__all__)
