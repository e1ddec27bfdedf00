"""PLMS: its formulas, its order, and what it calls; the official trajectories are in test_paint_by_example."""

import pytest
import torch

from samplers import Schedule, move, plms, sample


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "calls"), [(50, 51), (10, 11), (2, 3), (1, 2)])
def test_n_steps_are_one_call_more(n, calls):
    steps, seen = Schedule(prediction="eps").sampling(n), []
    plms.sample(lambda z, s: seen.append(s) or z, noise(1), steps)
    assert len(seen) == calls
    assert seen == [steps[0], steps[min(1, n - 1)], *steps[1:]]


def test_each_step_is_the_published_formula():
    """Ten steps with every estimate written out."""
    steps, given = Schedule(prediction="eps").sampling(10), [noise(2, 4, 2, 2, seed=i) for i in range(11)]
    answers, start = iter(given), noise(2, 4, 2, 2, seed=99)
    found = list(plms.walk(lambda z, s: next(answers), start, steps))
    e = [given[0], *given[2:]]  # the second call belongs to the first step alone
    directions = [
        (given[0] + given[1]) / 2,
        (3 * e[1] - e[0]) / 2,
        (23 * e[2] - 16 * e[1] + 5 * e[0]) / 12,
        *((55 * e[i] - 59 * e[i - 1] + 37 * e[i - 2] - 9 * e[i - 3]) / 24 for i in range(3, 10)),
    ]
    latents = start
    for step, direction, got in zip(steps, directions, found, strict=True):
        x0 = (latents - (1 - step.alpha_from) ** 0.5 * direction) / step.alpha_from**0.5
        latents = step.alpha_to**0.5 * x0 + (1 - step.alpha_to) ** 0.5 * direction
        assert torch.allclose(got, latents, atol=1e-12)
    assert steps[-1].alpha_to == float(Schedule().alpha_bar[0])


def test_the_corrector_is_asked_where_the_predictor_went():
    steps, seen = Schedule(prediction="eps").sampling(5), []
    start, fixed = noise(1, 4, 2, 2), noise(1, 4, 2, 2, seed=1)
    plms.sample(lambda z, s: seen.append(z) or fixed, start, steps)
    assert seen[0] is start
    assert torch.equal(seen[1], move(start, fixed, steps[0].alpha_from, steps[0].alpha_to))


def test_it_is_of_higher_order_than_ddim():
    """On Gaussian data, whose eps is known, 50 steps land nearer than DDIM's, and twice as many nearer by far."""
    schedule, mean, deviation, u = Schedule(prediction="eps"), 1.5, 0.4, noise(1, 4, 8, 8)

    def marginal(alpha):
        return alpha**0.5 * mean + (alpha * deviation**2 + 1 - alpha) ** 0.5 * u

    def eps(latents, step):
        alpha = step.alpha_from
        return (1 - alpha) ** 0.5 * (latents - alpha**0.5 * mean) / (alpha * deviation**2 + 1 - alpha)

    def error(run, n):
        steps = schedule.sampling(n)
        return (run(eps, marginal(steps[0].alpha_from), steps) - marginal(steps[-1].alpha_to)).abs().max().item()

    assert error(plms.sample, 50) < error(sample, 50) / 3
    assert error(plms.sample, 100) < error(plms.sample, 50) / 3  # DDIM's would halve


def test_a_walk_is_driven_by_its_caller_without_gradients():
    steps, asked = Schedule(prediction="eps").sampling(3), []
    walked = plms.walk(lambda z, s: asked.append(s) or z, noise(1, 1, 1, 1).requires_grad_(), steps)
    assert asked == [] and not next(walked).requires_grad
    assert asked == steps[:2] and torch.is_grad_enabled() and len(list(walked)) == 2


def test_rows_are_independent():
    steps, batch = Schedule(prediction="eps").sampling(7), noise(3, 4, 2, 2)
    alone = plms.sample(lambda z, s: z.sin(), batch[:1], steps)
    assert torch.equal(plms.sample(lambda z, s: z.sin(), batch, steps)[:1], alone)


def test_pure_noise_is_refused():
    steps = Schedule(rescale_zero_snr=True, spacing="trailing").sampling(5)
    with pytest.raises(ValueError, match="PLMS has no step from pure noise"):
        plms.sample(lambda z, s: z, noise(1), steps)
