"""The published checkpoints themselves, where somebody has fetched them: that they are what our code takes them for.

`photoswap weights fetch sd21-base`, then `pytest -m weights tests/test_published_weights.py`. What is asked is coarse,
for it has not been run on the published files: a wrong table of names, or eps read as v, gives noise in every one.
"""

import numpy as np
import pytest
import torch

from models.images import to_image, to_tensor
from photoswap.benchmark.scores import psnr
from photoswap.demo import make_task
from photoswap.drawing import generate
from weights.load import load
from weights.probe import noise_response, verdict
from weights.published import PUBLISHED, cache_folder
from weights.verify import verify

NAMES = ("sd21", "sd21-base", "sd15")
pytestmark = [pytest.mark.weights, pytest.mark.slow, pytest.mark.parametrize("name", NAMES)]


@pytest.fixture
def fetched(name):
    path = cache_folder() / PUBLISHED[name].file
    if not path.is_file():
        pytest.skip(f"{path} is not here: photoswap weights fetch {name}")
    return name


def test_the_file_is_the_published_one_and_predicts_what_it_is_known_for(fetched):
    report = verify(fetched)
    model = load(fetched)
    assert report.files[0].published == fetched
    assert verdict(noise_response(model)) == model.config.noise.prediction


@torch.no_grad()
def test_its_autoencoder_returns_a_picture(fetched):
    model, picture = load(fetched), make_task().source.image.resize((256, 256))
    assert psnr(to_image(model.decode(model.encode_image(to_tensor(picture)[None]))[0]), picture) > 22


def test_a_picture_of_a_prompt_is_no_noise(fetched, device):
    """Neighbouring pixels of a picture are alike, those of noise are not."""
    drawn = generate(load(fetched, device), "a photo of a castle", seed=0, steps=10, size=(512, 512))
    grey = np.asarray(drawn.convert("L"), dtype=float)
    assert np.corrcoef(grey[:, :-1].ravel(), grey[:, 1:].ravel())[0, 1] > 0.8
