"""EDICT against a second, plain spelling of the published code's order, and there and back."""

import pytest
import torch
from golden_model import golden, golden_model

from samplers import Schedule, edict, guided_eps
from samplers.ddim import sample as ddim_sample


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(schedule, mean=1.5, deviation=0.4):
    """E[eps | z_t] when x0 is normal, in closed form."""

    def eps(latents, step):
        alpha = float(schedule.alpha_bar[step.t])
        return (1 - alpha) ** 0.5 * (latents - alpha**0.5 * mean) / (alpha * deviation**2 + 1 - alpha)

    return eps


def slow(eps, x, y, schedule, n, p=0.93, alternating=True, mix_at_once=False, forward=True):
    """The pair by the equations, with a(t) and b(t) written out, denoising or inverting."""
    alphas = [*(float(schedule.alpha_bar[t]) for t in schedule.timesteps(n)), float(schedule.alpha_bar[0])]
    steps = schedule.sampling(n)
    for i in range(n) if forward else reversed(range(n)):
        a = (alphas[i + 1] / alphas[i]) ** 0.5
        b = (1 - alphas[i + 1]) ** 0.5 - a * (1 - alphas[i]) ** 0.5
        swapped = alternating and i % 2 == 1
        if forward:
            if swapped:
                y = a * y + b * eps(x, steps[i])
                x = a * x + b * eps(y, steps[i])
            else:
                x = a * x + b * eps(y, steps[i])
                y = a * y + b * eps(x, steps[i])
            old, x = x, p * x + (1 - p) * y
            y = p * y + (1 - p) * (old if mix_at_once else x)
        else:
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            if swapped:
                x = (x - b * eps(y, steps[i])) / a
                y = (y - b * eps(x, steps[i])) / a
            else:
                y = (y - b * eps(x, steps[i])) / a
                x = (x - b * eps(y, steps[i])) / a
    return x, y


def test_both_directions_follow_the_published_order():
    schedule, x, y = Schedule(), noise(1, 4, 4, 4), noise(1, 4, 4, 4, seed=1)
    eps, steps = gaussian(schedule), schedule.sampling(10)
    there, back = edict.sample(eps, (x, y), steps), edict.invert(eps, (x, y), steps)[-1]
    broken = ({"alternating": False}, {"p": 0.9})
    for ours, forward, others in ((there, True, (*broken, {"mix_at_once": True})), (back, False, broken)):
        wanted = slow(eps, x, y, schedule, 10, forward=forward)
        assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(ours, wanted, strict=True))  # rounding x 4
        for one in others:
            other = slow(eps, x, y, schedule, 10, forward=forward, **one)
            assert max((a - b).abs().max() for a, b in zip(ours, other, strict=True)) > 1e-3, one


@pytest.mark.parametrize("n", [1, 3, 50])
def test_inverting_gaussian_data_and_sampling_comes_back(n):
    schedule, latents = Schedule(), 1.5 + 0.4 * noise(1, 4, 8, 8)
    eps, steps = gaussian(schedule), schedule.sampling(n)
    trajectory = edict.invert(eps, (latents, latents), steps)
    assert len(trajectory) == n + 1
    for half in edict.sample(eps, trajectory[-1], steps):
        assert torch.allclose(half, latents, atol=1e-10)  # float64 rounding over 1 / 0.93^100
    middle = edict.sample(eps, trajectory[-1], steps[:1])
    assert torch.allclose(middle[0], trajectory[-2][0], atol=1e-12)


def test_sampling_gaussian_data_lands_where_ddim_does():
    """Of one order with DDIM: from the same noise the two draw nearer as steps grow finer."""
    schedule, start, apart = Schedule(), noise(1, 4, 8, 8), {}
    for n in (50, 1000):
        steps = schedule.sampling(n)
        x, y = edict.sample(gaussian(schedule), (start, start), steps)
        apart[n] = max((z - ddim_sample(gaussian(schedule), start, steps)).abs().max().item() for z in (x, y))
    assert apart[1000] < 0.01 and apart[1000] < apart[50] / 5


def test_pure_noise_is_undone_too():
    """At alpha_bar = 0 the move goes by v, and so does its inverse."""
    schedule = Schedule(rescale_zero_snr=True, spacing="trailing")
    context = torch.zeros(1, 77, 4).double()
    eps = guided_eps(lambda z, t, c: 0.3 * z.sin() - 0.1, schedule, None, context, 1.0)
    latents, steps = noise(1, 4, 8, 8), schedule.sampling(20)
    assert steps[0].alpha_from == 0
    back = edict.sample(eps, edict.invert(eps, (latents, latents), steps)[-1], steps)
    assert all(torch.allclose(half, latents, atol=1e-10) for half in back)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_network_is_inverted_exactly_under_guidance(prediction, guidance, device):
    model = golden_model("ldm", device, torch.float64)
    schedule, context = Schedule(prediction=prediction), golden("text.context", device).double()
    calls = []

    def counted(*arguments):
        calls.append(len(arguments[0]))
        return model.unet(*arguments)

    uncond = None if guidance == 1 else context[1:]
    eps = guided_eps(counted, schedule, uncond, context[:1], guidance)
    clean, steps = golden("vae.latent", device)[:1].double(), schedule.sampling(10)
    trajectory = edict.invert(eps, (clean, clean), steps)
    assert calls == [1 if guidance == 1 else 2] * 20
    for half in edict.sample(eps, trajectory[-1], steps):
        assert (half - clean).abs().max() < 5e-9  # float64 rounding, grown by 1 / p and by the network's slope: 8e-10


def test_walks_are_driven_by_their_caller():
    schedule, latents, asked = Schedule(), noise(1, 1, 2, 2), []

    def eps(z, step):
        asked.append(step.index)
        return gaussian(schedule)(z, step)

    back = edict.walk_back(eps, (latents, latents), schedule.sampling(3))
    assert asked == [] and next(back) and asked == [2, 2]
    *_, pair = back
    assert asked == [2, 2, 1, 1, 0, 0] and len(list(edict.walk(eps, pair, schedule.sampling(3)))) == 3
