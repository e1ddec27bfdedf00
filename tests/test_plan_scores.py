"""What swaps are judged by without the truth: against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from swap_model import SOURCE, TARGET, picture, swap_model
from test_targets import double_model

from models.images import to_tensor
from photoswap.masks import TIMESTEPS
from photoswap.plan_scores import CRITIC_NOISES, Critic, background_kept, background_of, stretched_scores, summed_scores


def flat(level, size=(128, 128)):
    return Image.new("RGB", size, (level,) * 3)


def box(corners, size=(128, 128)):
    mask = Image.new("L", size, 0)
    mask.paste(255, corners)
    return mask


def test_the_background_is_a_psnr_outside_alone():
    other = flat(100)
    other.paste((110, 100, 100), (0, 0, 128, 64))  # the upper half is ten levels off in one of three colours
    other.paste((0, 0, 0), (32, 32, 64, 64))
    ground = np.ones((128, 128), dtype=bool)
    ground[32:64, 32:64] = False
    wrong = 100 / 3 * (64 * 128 - 32 * 32) / ground.sum()
    assert background_kept(other, flat(100), ground) == pytest.approx(10 * math.log10(255**2 / wrong))
    assert background_kept(other, other, ground) == 60


def test_what_is_near_the_subject_is_no_background():
    ground = background_of(box((40, 40, 60, 60)))
    assert (~ground).sum() == 52 * 52 and not ground[24:76, 24:76].any()  # 16 pixels, an eighth, on every side
    near = background_of(box((12, 12, 128, 116)))  # where that leaves nothing, half as far, and then right beside it
    assert (~near).sum() == 124 * 120 and not near[4:124, 4:].any()
    assert background_of(box((0, 8, 128, 128)))[:8].all() and background_of(box((0, 4, 128, 128))) is None


def slow_identity(model, latents, places, broken=None):
    """Noise by noise, prompt by prompt, place by place."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, dim=0).tolist()
    generator, found = torch.Generator().manual_seed(0), []
    for t in (100, 300, 500):
        for noise in torch.randn(2, 4, *latents.shape[2:], generator=generator).double():
            z = math.sqrt(alpha_bar[t]) * latents + math.sqrt(1 - alpha_bar[t]) * noise
            errors = []
            for prompt in (TARGET, SOURCE):
                v = model.unet(z, t, model.encode_text(prompt))
                eps = math.sqrt(alpha_bar[t]) * v + math.sqrt(1 - alpha_bar[t]) * z
                wrong = ((v if broken == "v" else eps) - noise)[0] ** 2
                kept = [wrong[:, y, x] for y, x in places] if broken != "everywhere" else [wrong]
                errors.append(sum(one.mean() for one in kept) / len(kept))
            found.append(errors[1] - errors[0])
    return float(sum(found) / len(found))


@torch.no_grad()
def test_identity_is_the_difference_of_denoising_losses_written_out(device):
    model = double_model(device)
    latents = model.encode_image(to_tensor(picture())[None]).double()
    critic = Critic.of(model, picture(), box((32, 40, 56, 56)), (TARGET, SOURCE))
    places = [(y, x) for y in (5, 6) for x in (4, 5, 6)]
    found = critic.identity(latents)
    assert found == pytest.approx(slow_identity(model, latents, places), rel=1e-9)
    for broken in ("v", "everywhere"):
        assert abs(slow_identity(model, latents, places, broken) - found) > 1e-3 * abs(found)
    reverse = Critic.of(model, picture(), box((32, 40, 56, 56)), (SOURCE, TARGET))
    assert reverse.identity(latents) == pytest.approx(-found, rel=1e-9)


def test_judging_takes_the_rows_that_are_said(device, monkeypatch):
    model, seen = swap_model(device), []
    critic = Critic.of(model, picture(), box((0, 0, 64, 64)), (TARGET, SOURCE))
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda z, *more: (seen.append(len(z)), forward(z, *more))[1])
    scores = critic.scores(model.encode_image(to_tensor(picture())[None]), picture())
    assert sum(seen) == critic.rows == len(TIMESTEPS) * CRITIC_NOISES * 2 == 12
    assert scores.keys() == {"background", "identity"} and scores["background"] == 60


def test_a_background_that_is_kept_anyway_or_is_not_there_has_no_score(device):
    model, white = swap_model(device), box((0, 0, 128, 128))
    critic = Critic.of(model, picture(), white, (TARGET, SOURCE), keeps_background=True)
    scores = critic.scores(model.encode_image(to_tensor(picture())[None]), flat(0))
    assert scores.keys() == {"identity"}
    assert Critic.of(model, picture(), white, (TARGET, SOURCE)).ground is None  # a subject that fills the picture
    with pytest.raises(ValueError, match="the mask is black where the model looks"):
        Critic.of(model, picture(), box((0, 0, 0, 0)), (TARGET, SOURCE))


def test_a_mask_of_another_size_is_brought_to_the_one_worked_on(device):
    model = swap_model(device)
    large = Critic.of(model, picture(), box((64, 64, 128, 128), (300, 256)), (TARGET, SOURCE))
    small = Critic.of(model, picture(), box((21, 32, 53, 64)), (TARGET, SOURCE))  # of its cut, 22 pixels less each side
    assert large.places.equal(small.places) and (large.ground == small.ground).mean() > 0.97


def test_scores_are_stretched_and_added():
    assert stretched_scores([3, 1, 2]) == [1, 0, 0.5] and stretched_scores([2, 2]) == [0, 0]
    told = [{"a": 10, "b": 5}, {"a": 30, "b": 1}, {"a": 20, "b": 4}]
    assert summed_scores(told) == [0 + 1, 1 + 0, 0.5 + 0.75]
