"""What every test shares: the device it runs on, float32 that is float32, and a small model with a concept."""

import os
import signal
import tempfile

import pytest
import torch
from command_line import LEARN, paint
from left_open import LEFT_OPEN
from tiny_model import write_tiny_model

from models.precision import full_float32
from photoswap.__main__ import main


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default=None, help="cpu, cuda or cuda:N; default: cuda where present, else cpu")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts the tests in the background has them ignore Ctrl-C, which some of them are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # TF32 keeps 10 bits of mantissa, which would drown the tolerances.
    settings = full_float32()
    settings.__enter__()
    config.add_cleanup(lambda: settings.__exit__(None, None, None))
    # Class pictures of the tests' models are nobody's to share.
    shared = tempfile.TemporaryDirectory(prefix="photoswap-class-pictures-")
    os.environ["PHOTOSWAP_CLASS_PICTURES"] = shared.name
    config.add_cleanup(shared.cleanup)
    # The networks here are tiny: threads cost more than they bring, above all beside other work.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Functions by their parameter's name: by their address, two processes would not agree what a test is called."""
    return argname if callable(val) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _closed_at_the_end():
    yield
    LEFT_OPEN.close()


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of --device, else cuda where present, else cpu."""
    chosen = request.config.getoption("--device")
    return torch.device(chosen or ("cuda" if torch.cuda.is_available() else "cpu"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A model file and the flags that make it quick."""
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return ["--model", str(path), "--device", "cpu", "--quiet"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of three references, and one picture of another shape beside it."""
    home = tmp_path_factory.mktemp("pictures")
    (home / "references").mkdir()
    for i in range(3):
        paint((150, 140), i).save(home / "references" / f"{i}.png")
    paint((300, 180), 3).save(home / "source.png")
    return home


@pytest.fixture(scope="session")
def concept(tiny, pictures, tmp_path_factory):
    """A concept learnt in two steps."""
    out = tmp_path_factory.mktemp("concept")
    assert main(["learn", str(pictures / "references"), *LEARN, "--out", str(out), *tiny]) == 0
    return out / "concept.safetensors"
