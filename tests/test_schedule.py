"""Noise levels and timesteps against the golden ones, and the conversions against each other."""

from itertools import pairwise

import pytest
import torch

from samplers import Schedule, Step


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alpha_bar_is_that_of_stable_diffusion():
    alpha_bar = Schedule().alpha_bar
    assert alpha_bar.dtype == torch.float64 and alpha_bar.shape == (1000,)
    # to the digits published for betas 0.00085..0.012
    assert alpha_bar[0].item() == pytest.approx(0.99915, abs=1e-8)
    assert alpha_bar[981].item() == pytest.approx(0.005776, abs=5e-7)
    assert alpha_bar[999].item() == pytest.approx(0.004660, abs=5e-7)


def test_fifty_steps_are_the_official_ones():
    assert Schedule().timesteps(50) == list(range(981, 0, -20))
    assert Schedule(offset=0).timesteps(50) == list(range(980, -1, -20))


@pytest.mark.parametrize("offset", [0, 1])
def test_every_number_of_steps_descends_within_range(offset):
    schedule = Schedule(offset=offset)
    for n in range(1, 1001):
        timesteps = schedule.timesteps(n)
        assert len(timesteps) == n
        assert timesteps[-1] >= 0 and timesteps[0] < 1000
        assert all(a > b for a, b in pairwise(timesteps))


def test_steps_join_and_end_at_the_first_alpha():
    schedule = Schedule()
    steps = schedule.sampling(7)
    assert [s.index for s in steps] == list(range(7))
    assert all(a.alpha_to == b.alpha_from for a, b in pairwise(steps))
    assert steps[-1].alpha_to == schedule.alpha_bar[0].item()
    assert all(s.alpha_from == schedule.alpha_bar[s.t].item() for s in steps)


def test_inversion_is_sampling_backwards_at_the_destination():
    schedule = Schedule()
    for s, i in zip(schedule.sampling(10), reversed(schedule.inversion(10)), strict=True):
        assert i == Step(s.index, s.t, s.alpha_to, s.alpha_from)
        assert i.alpha_to == schedule.alpha_bar[i.t].item()


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("t", [0, 500, torch.tensor(999), torch.tensor([3, 700])])
def test_conversions_undo_noising(prediction, t):
    schedule = Schedule(prediction=prediction)
    x0, eps = noise(2, 4, 3, 3, seed=1), noise(2, 4, 3, 3, seed=2)
    latents, output = schedule.add_noise(x0, eps, t), schedule.target(x0, eps, t)
    # float64: what rounding leaves after a division by sqrt(alpha_bar) >= 0.068
    assert torch.allclose(schedule.to_eps(output, latents, t), eps, atol=1e-12)
    assert torch.allclose(schedule.to_x0(output, latents, t), x0, atol=1e-12)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_step_converts_at_the_level_its_latents_stand_at(prediction):
    schedule = Schedule(prediction=prediction)
    output, latents = noise(2, 4, 3, 3, seed=1), noise(2, 4, 3, 3, seed=2)
    forth, back = schedule.sampling(10)[3], schedule.inversion(10)[6]
    assert forth.t == back.t == 601
    assert torch.equal(schedule.to_eps(output, latents, forth), schedule.to_eps(output, latents, 601))
    assert torch.equal(schedule.to_eps(output, latents, back), schedule.to_eps(output, latents, 501))


def test_a_batch_of_timesteps_is_each_row_alone():
    schedule, (x0, eps) = Schedule(prediction="v"), noise(2, 3, 4, 2, 2)
    t = torch.tensor([0, 420, 999])
    together = schedule.add_noise(x0, eps, t)
    for i in range(3):
        assert torch.equal(together[i], schedule.add_noise(x0[i], eps[i], int(t[i])))


def test_half_precision_is_widened_and_float64_kept():
    schedule, half = Schedule(prediction="v"), torch.ones(1, 4, 2, 2, dtype=torch.float16)
    assert schedule.to_eps(half, half, 10).dtype == torch.float32
    assert schedule.to_eps(half, half.double(), 10).dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"beta_start": 0.0}, "betas"),
        ({"beta_end": 0.0001}, "betas"),
        ({"train_steps": 0}, "train_steps"),
        ({"prediction": "epsilon"}, "epsilon"),
        ({"offset": 1000}, "offset"),
    ],
)
def test_senseless_settings_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        Schedule(**settings)


@pytest.mark.parametrize("n", [0, -3, 1001])
def test_senseless_step_counts_are_refused(n):
    with pytest.raises(ValueError, match="room for 1"):
        Schedule().sampling(n)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        Schedule().to_eps(noise(1, 4, 2, 2), noise(2, 4, 2, 2), 5)
