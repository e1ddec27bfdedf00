"""What every test shares: the device it runs on, and float32 that is float32."""

import os
import signal

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default=None, help="cpu, cuda or cuda:N; default: cuda where present, else cpu")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts the tests in the background has them ignore Ctrl-C, which some of them are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # TF32 keeps 10 bits of mantissa, which would drown the tolerances.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # The networks here are tiny: threads cost more than they bring, above all beside other work.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of --device, else cuda where present, else cpu."""
    chosen = request.config.getoption("--device")
    return torch.device(chosen or ("cuda" if torch.cuda.is_available() else "cpu"))
