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
        ({"beta_start": float("nan")}, "betas"),
        ({"train_steps": 1}, "train_steps is 1; want at least 2"),
        ({"train_steps": 10**9}, "at most 100000"),
        ({"prediction": "epsilon"}, "prediction is 'epsilon'; want one of 'eps', 'v'"),
        ({"beta_schedule": "cosine"}, "beta_schedule is 'cosine'; want one of 'scaled_linear', 'linear'"),
        ({"spacing": "karras"}, "spacing is 'karras'; want one of 'leading', 'trailing', 'linspace'"),
        ({"offset": 1000}, "offset"),
        ({"rescale_zero_snr": True, "prediction": "eps"}, "eps says nothing of the picture there; give prediction 'v'"),
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


@pytest.mark.parametrize("t", [-1, 1000, 5000, 2.0, True, torch.tensor([3, -1]), torch.tensor([3.0, 4.0])])
def test_what_is_no_timestep_is_refused(t):
    x0 = noise(2, 4, 2, 2)
    for convert in (Schedule().to_eps, Schedule().to_x0, Schedule().target, Schedule().add_noise):
        with pytest.raises(ValueError, match=r"t is .*; timesteps of this schedule are whole numbers from 0 to 999"):
            convert(x0, x0, t)


# Other schedules that are published, each against its formula, one number at a time


def test_linear_betas_number_by_number():
    schedule, product = Schedule(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"), 1.0
    for t in range(1000):  # DDPM, section 4
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        assert schedule.alpha_bar[t].item() == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear"])
def test_rescaling_to_zero_snr_number_by_number(beta_schedule):
    """arXiv:2305.08891, algorithm 1, as it is printed: by way of the betas."""
    plain = Schedule(beta_schedule=beta_schedule).alpha_bar.tolist()
    first, last = plain[0] ** 0.5, plain[-1] ** 0.5
    shifted = [((a**0.5 - last) * first / (first - last)) ** 2 for a in plain]
    betas = [1 - shifted[0], *(1 - b / a for a, b in pairwise(shifted))]
    rescaled, product = Schedule(beta_schedule=beta_schedule, rescale_zero_snr=True).alpha_bar, 1.0
    for t in range(1000):
        product *= 1 - betas[t]
        assert rescaled[t].item() == pytest.approx(product, rel=1e-9)  # a thousand roundings of the product
    assert rescaled[999] == 0 and rescaled[0].item() == pytest.approx(plain[0], rel=1e-14)


def test_trailing_timesteps_are_the_published_ones():
    schedule = Schedule(spacing="trailing")
    assert schedule.timesteps(50) == list(range(999, 0, -20))
    assert schedule.timesteps(10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]  # the paper's table 2, from 0
    assert schedule.timesteps(1) == [999] and schedule.timesteps(1000) == list(range(999, -1, -1))
    assert schedule.timesteps(48)[3] == 936  # 1000 - 3 * 1000 / 48 = 937.5, a half that numpy's arange puts below
    for n in range(1, 1001):
        timesteps = schedule.timesteps(n)
        assert len(timesteps) == n and timesteps[0] == 999 and timesteps[-1] >= 0
        assert all(a > b for a, b in pairwise(timesteps))
        assert all(abs(t + 1 - (1000 - i * 1000 / n)) <= 0.5 + 1e-9 for i, t in enumerate(timesteps))


def test_linspace_timesteps_visit_both_ends():
    schedule = Schedule(spacing="linspace")
    assert schedule.timesteps(5) == [999, 749, 500, 250, 0]  # 499.5 rounds to even
    assert schedule.timesteps(1) == [0]
    for n in range(2, 1001):
        timesteps = schedule.timesteps(n)
        assert len(timesteps) == n and timesteps[0] == 999 and timesteps[-1] == 0
        assert all(a > b for a, b in pairwise(timesteps))
        assert all(abs(t - 999 * (n - 1 - i) / (n - 1)) <= 0.5 for i, t in enumerate(timesteps))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_last_step_may_end_at_one(spacing):
    ends = [Schedule(spacing=spacing, set_alpha_to_one=one).sampling(20)[-1].alpha_to for one in (False, True)]
    assert ends == [Schedule().alpha_bar[0].item(), 1.0]
    first = Schedule(spacing=spacing, set_alpha_to_one=True).inversion(20)[0]
    assert first.alpha_from == 1.0


ZERO_SNR = Schedule(rescale_zero_snr=True, spacing="trailing")


@pytest.mark.parametrize("t", [0, 500, 998])
def test_zero_snr_conversions_undo_noising(t):
    x0, eps = noise(2, 4, 3, 3, seed=1), noise(2, 4, 3, 3, seed=2)
    latents, output = ZERO_SNR.add_noise(x0, eps, t), ZERO_SNR.target(x0, eps, t)
    assert torch.allclose(ZERO_SNR.to_eps(output, latents, t), eps, atol=1e-12)
    assert torch.allclose(ZERO_SNR.to_x0(output, latents, t), x0, atol=1e-12)


def test_at_zero_snr_only_v_speaks_of_the_picture():
    x0, eps = noise(2, 4, 3, 3, seed=1), noise(2, 4, 3, 3, seed=2)
    latents, output = ZERO_SNR.add_noise(x0, eps, 999), ZERO_SNR.target(x0, eps, 999)
    assert torch.equal(latents, eps) and torch.equal(output, -x0)
    assert torch.equal(ZERO_SNR.to_x0(output, latents, 999), x0)
    assert torch.equal(ZERO_SNR.to_eps(output, latents, 999), output)  # what `move` asks for there
    rows = ZERO_SNR.to_eps(output, latents, torch.tensor([999, 400]))
    assert torch.equal(rows[0], output[0])
    assert torch.equal(rows[1], ZERO_SNR.to_eps(output[1:], latents[1:], 400)[0])
