"""TF32 is off where float32 is promised, and nowhere else changed."""

import pytest
import torch
from command_line import paint

from models.precision import full_float32
from photoswap.__main__ import main

BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn)


@pytest.fixture(params=[True, False])
def allowed(request):
    """What the process had chosen before."""
    before = settings()
    for backend in BACKENDS:
        backend.allow_tf32 = request.param
    yield request.param
    for backend, kept in zip(BACKENDS, before, strict=True):
        backend.allow_tf32 = kept


def settings():
    return [backend.allow_tf32 for backend in BACKENDS]


def test_it_is_off_within_and_as_it_was_afterwards(allowed):
    with full_float32():
        assert settings() == [False, False]
    assert settings() == [allowed, allowed]
    with pytest.raises(ValueError), full_float32():
        raise ValueError("a mistake")
    assert settings() == [allowed, allowed]


@pytest.mark.parametrize("code", [0, 2])
def test_commands_run_a_model_within_it(allowed, code, tiny, tmp_path, monkeypatch):
    """From loading on, whether they end well or in a mistake."""
    seen = []

    def draw(*_, **__):
        seen.extend(settings())
        if code:
            raise ValueError("a mistake")
        return paint((8, 8), 0)

    monkeypatch.setattr("photoswap.drawing.generate", draw)
    assert main(["generate", "a cat", *tiny, "--out", str(tmp_path / "a.png")]) == code
    assert seen == [False, False] and settings() == [allowed, allowed]


@pytest.mark.gpu
@pytest.mark.parametrize("allowed", [True], indirect=True)
def test_a_float32_convolution_on_a_gpu_has_all_its_bits(allowed):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(1, 320, 64, 64, generator=generator), torch.randn(320, 320, 3, 3, generator=generator)
    exact = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)

    def error():
        found = torch.nn.functional.conv2d(x.cuda(), w.cuda(), padding=1).double().cpu()
        return ((found - exact).norm() / exact.norm()).item()

    with full_float32():
        assert error() < 2e-6  # float32 sums of 2880 products
    assert error() > 1e-4  # the reason for it: TF32's ten bits
