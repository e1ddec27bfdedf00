"""O-BELM against its formula in alpha and sigma, there and back, and its order."""

import pytest
import torch
from golden_model import golden, golden_model
from test_edict import gaussian, noise

from samplers import Schedule, belm, guided_eps, move, sample


def start(eps, latents, step):
    """The pair that a sample starts from when only its noise is known: DDIM's first step."""
    return latents, move(latents, eps(latents, step), step.alpha_from, step.alpha_to)


def slow(eps, older, latents, schedule, n, squared=True):
    """The formula as published, by level i = n .. 0."""
    levels = [float(schedule.alpha_bar[0]), *(float(schedule.alpha_bar[t]) for t in reversed(schedule.timesteps(n)))]
    alpha, sigma = [a**0.5 for a in levels], [(1 - a) ** 0.5 for a in levels]
    h = [None, *(sigma[i] / alpha[i] - sigma[i - 1] / alpha[i - 1] for i in range(1, n + 1))]
    power = 2 if squared else 1
    for i in range(n - 1, 0, -1):
        r = h[i] ** power / h[i + 1] ** power
        estimate = eps(latents, schedule.sampling(n)[n - i])
        new = r * (alpha[i - 1] / alpha[i + 1]) * older
        new = new + (1 - r) * (alpha[i - 1] / alpha[i]) * latents
        new = new - h[i] * (h[i] + h[i + 1]) / h[i + 1] * alpha[i - 1] * estimate
        older, latents = latents, new
    return latents


def test_the_formula_is_the_published_one():
    schedule = Schedule()
    eps, steps = gaussian(schedule), schedule.sampling(50)
    pair = start(eps, noise(1, 4, 4, 4), steps[0])
    ours = belm.sample(eps, pair, steps)
    assert torch.allclose(ours, slow(eps, *pair, schedule, 50), atol=1e-12)  # float64 rounding
    assert (ours - slow(eps, *pair, schedule, 50, squared=False)).abs().max() > 1e-3


@pytest.mark.parametrize("n", [1, 2, 50])
def test_inverting_gaussian_data_and_sampling_comes_back(n):
    schedule, latents = Schedule(), 1.5 + 0.4 * noise(1, 4, 8, 8)
    calls = []

    def eps(z, step):
        calls.append(step.index)
        return gaussian(schedule)(z, step)

    steps = schedule.sampling(n)
    trajectory = belm.invert(eps, latents, steps)
    assert len(trajectory) == n + 1 and calls == [n - 1, *reversed(range(1, n))]
    back = belm.sample(eps, (trajectory[-1], trajectory[-2]), steps)
    assert torch.allclose(back, latents, atol=1e-10)  # float64 rounding, which sampling does not amplify


def test_sampling_gaussian_data_is_of_second_order():
    """Nearer to the truth than DDIM at the same number of calls, and more so the finer the steps."""
    schedule, mean, deviation, u = Schedule(), 1.5, 0.4, noise(1, 4, 8, 8)
    eps = gaussian(schedule, mean, deviation)

    def marginal(alpha):
        return alpha**0.5 * mean + (alpha * deviation**2 + 1 - alpha) ** 0.5 * u

    for n, gain in ((50, 2), (500, 5)):
        steps = schedule.sampling(n)
        noisy, wanted = marginal(steps[0].alpha_from), marginal(steps[-1].alpha_to)
        ours = (belm.sample(eps, start(eps, noisy, steps[0]), steps) - wanted).abs().max()
        assert ours < (sample(eps, noisy, steps) - wanted).abs().max() / gain


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_network_is_inverted_exactly(prediction, guidance, device):
    model = golden_model("ldm", device, torch.float64)
    schedule, context = Schedule(prediction=prediction), golden("text.context", device).double()
    calls = []

    def counted(*arguments):
        calls.append(len(arguments[0]))
        return model.unet(*arguments)

    eps = guided_eps(counted, schedule, None if guidance == 1 else context[1:], context[:1], guidance)
    clean, steps = golden("vae.latent", device)[:1].double(), schedule.sampling(10)
    trajectory = belm.invert(eps, clean, steps)
    assert calls == [1 if guidance == 1 else 2] * 10
    back = belm.sample(eps, (trajectory[-1], trajectory[-2]), steps)
    assert (back - clean).abs().max() < 1e-10  # float64 rounding


def test_pure_noise_is_refused():
    schedule, latents = Schedule(rescale_zero_snr=True, spacing="trailing"), noise(1, 4, 2, 2)
    with pytest.raises(ValueError, match="no step from pure noise"):
        belm.invert(lambda z, s: z, latents, schedule.sampling(5))
    with pytest.raises(ValueError, match="no step from pure noise"):
        belm.sample(lambda z, s: z, (latents, latents), schedule.sampling(5))


def test_walks_are_driven_by_their_caller():
    schedule, asked = Schedule(), []

    def eps(z, step):
        asked.append(step.index)
        return gaussian(schedule)(z, step)

    back = belm.walk_back(eps, noise(1, 1, 2, 2), schedule.sampling(4))
    assert asked == [] and next(back) is not None and asked == [3]
    *_, newer, noisiest = back
    assert asked == [3, 3, 2, 1] and len(list(belm.walk(eps, (noisiest, newer), schedule.sampling(4)))) == 3
