"""What `photoswap` exports, and that importing it costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

import photoswap

ROOT = Path(__file__).parent.parent


def test_every_name_is_there():
    assert all(getattr(photoswap, name) is not None for name in photoswap.__all__)
    with pytest.raises(AttributeError, match="'swop'; it has METHODS, PaintSettings, Photoswap"):
        photoswap.swop  # noqa: B018


def test_importing_it_loads_no_network():
    code = "import sys, photoswap; sys.exit('torch' in sys.modules or 'photoswap.pipeline' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_of_ours_hides_no_function():
    """A submodule imported elsewhere becomes an attribute of its package, whatever the package exports."""
    modules = {path.stem for path in (ROOT / "photoswap").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(photoswap.__all__)
