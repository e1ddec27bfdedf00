"""The DDIM update, its two directions, and whole trajectories against known answers and stored ones."""

import math

import pytest
import torch
from golden_bounds import bound
from golden_model import golden, golden_model
from tiny import distance

from samplers import Schedule, Step, guided_eps, invert, move, sample, walk
from samplers.ddim import move_anew, normal


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_eps(schedule, mean, deviation):
    """E[eps | z_t] when x0 is normal with this mean and standard deviation, in closed form."""

    def eps(latents, step):
        alpha = float(schedule.alpha_bar[step.t])
        variance = alpha * deviation**2 + 1 - alpha
        return (1 - alpha) ** 0.5 * (latents - alpha**0.5 * mean) / variance

    return eps


def test_there_and_back_is_the_identity():
    latents, eps = noise(2, 4, 3, 3, seed=1), noise(2, 4, 3, 3, seed=2)
    there = move(latents, eps, 0.9991, 0.0058)
    assert torch.allclose(move(there, eps, 0.0058, 0.9991), latents, atol=1e-12)  # float64 rounding over 1/0.076
    assert torch.allclose(move(latents, eps, 0.5, 0.5), latents, atol=1e-12)
    assert move(latents.float(), eps.float(), 0.9, 0.1).dtype == torch.float32


@pytest.mark.parametrize("n", [1, 3, 50, 333, 1000])
def test_there_and_back_along_a_fixed_noise_for_any_number_of_steps(n):
    schedule, latents, fixed = Schedule(), noise(1, 4, 2, 2, seed=1), noise(1, 4, 2, 2, seed=2)
    trajectory = invert(lambda z, s: fixed, latents, schedule.inversion(n))
    assert len(trajectory) == n + 1 and trajectory[0] is latents
    back = sample(lambda z, s: fixed, trajectory[-1], schedule.sampling(n))
    assert torch.allclose(back, latents, atol=1e-10)  # float64 rounding over up to 2000 moves


def test_sampling_gaussian_data_lands_on_its_distribution():
    """The flow maps normal to normal: z = mean_t + deviation_t * u carries u along unchanged."""
    schedule, mean, deviation, u = Schedule(), 1.5, 0.4, noise(1, 4, 8, 8)
    eps, errors = gaussian_eps(schedule, mean, deviation), {}

    def marginal(alpha):
        return alpha**0.5 * mean + (alpha * deviation**2 + 1 - alpha) ** 0.5 * u

    for n in (50, 1000):
        steps = schedule.sampling(n)
        landed = sample(eps, marginal(steps[0].alpha_from), steps)
        errors[n] = (landed - marginal(steps[-1].alpha_to)).abs().max().item()
    assert errors[1000] < 0.01  # a first-order integrator, against a deviation of 0.4
    assert errors[1000] < errors[50] / 5  # and the error shrinks with the step


def test_inverting_gaussian_data_and_sampling_comes_back():
    schedule, latents = Schedule(), 1.5 + 0.4 * noise(1, 4, 8, 8)
    eps = gaussian_eps(schedule, 1.5, 0.4)
    back = sample(eps, invert(eps, latents, schedule.inversion(1000))[-1], schedule.sampling(1000))
    assert (back - latents).abs().max() < 0.02  # first order: eps is taken at the destination when inverting


def test_a_walk_is_driven_by_its_caller():
    """Previews, progress and early stopping want no callback: nothing is computed before it is asked for."""
    schedule, asked = Schedule(), []
    steps, start = schedule.sampling(5), noise(1, 1, 1, 1)
    walked = walk(lambda z, s: asked.append(s) or z, start, steps)
    assert asked == []
    first = next(walked)
    assert asked == steps[:1] and torch.equal(first, move(start, start, steps[0].alpha_from, steps[0].alpha_to))
    assert len([first, *walked]) == 5 and asked == steps


def test_sampling_ends_where_the_walk_does_and_inverting_keeps_it_all():
    schedule, start = Schedule(), noise(1, 4, 2, 2)
    eps = gaussian_eps(schedule, 1.5, 0.4)
    *_, end = walk(eps, start, schedule.sampling(4))
    assert torch.equal(sample(eps, start, schedule.sampling(4)), end) and sample(eps, start, []) is start
    there = invert(eps, start, schedule.inversion(4))
    assert there[0] is start and all(map(torch.equal, there[1:], walk(eps, start, schedule.inversion(4))))


def test_nothing_asks_for_gradients_and_the_caller_keeps_its_own():
    latents = noise(1, 4, 2, 2).requires_grad_()
    for behind in walk(lambda z, s: z, latents, Schedule().sampling(2)):
        assert not behind.requires_grad and torch.is_grad_enabled()


@pytest.mark.parametrize("alphas", [(1.5, 0.5), (0.5, 1.5), (-0.1, 0.5), (0.5, -0.1), (float("nan"), 0.5)])
def test_impossible_levels_are_refused(alphas):
    with pytest.raises(ValueError, match="alpha_bar"):
        move(noise(1), noise(1), *alphas)


class TestZeroSnr:
    """Schedules that start at alpha_bar = 0, for a network that predicts v (arXiv:2305.08891)."""

    schedule = Schedule(rescale_zero_snr=True, spacing="trailing")

    def velocity(self, mean, deviation):
        """E[v | z_t] when x0 is normal, in closed form: at alpha_bar = 0 it is -mean."""

        def v(latents, t, context):
            alpha = float(self.schedule.alpha_bar[t])
            gain = (alpha * (1 - alpha)) ** 0.5 * (1 - deviation**2) / (alpha * deviation**2 + 1 - alpha)
            return gain * (latents - alpha**0.5 * mean) - (1 - alpha) ** 0.5 * mean

        return v

    def test_one_step_from_pure_noise_is_what_v_says(self):
        eps = guided_eps(self.velocity(1.5, 0.4), self.schedule, None, torch.zeros(1, 77, 4).double(), 1.0)
        (step,) = self.schedule.sampling(1)
        assert step.t == 999 and step.alpha_from == 0
        z, alpha = noise(1, 4, 8, 8), step.alpha_to
        landed = sample(eps, z, [step])
        assert torch.allclose(landed, alpha**0.5 * 1.5 + (1 - alpha) ** 0.5 * z, atol=1e-14)  # x0 = 1.5 kept, z as eps

    def test_sampling_gaussian_data_lands_on_its_distribution(self):
        """From the noise itself, which no other schedule starts at."""
        eps = guided_eps(self.velocity(1.5, 0.4), self.schedule, None, torch.zeros(1, 77, 4).double(), 1.0)
        u, last = noise(1, 4, 8, 8), self.schedule.sampling(1000)[-1].alpha_to
        wanted = last**0.5 * 1.5 + (last * 0.4**2 + 1 - last) ** 0.5 * u
        errors = [(sample(eps, u, self.schedule.sampling(n)) - wanted).abs().max().item() for n in (50, 1000)]
        assert errors[1] < 0.01 and errors[1] < errors[0] / 5  # a first-order integrator

    def test_inversion_reaches_the_noise_and_comes_back(self):
        eps = guided_eps(self.velocity(1.5, 0.4), self.schedule, None, torch.zeros(1, 77, 4).double(), 1.0)
        latents = 1.5 + 0.4 * noise(1, 4, 8, 8)
        trajectory = invert(eps, latents, self.schedule.inversion(1000))
        assert self.schedule.inversion(1000)[-1].alpha_to == 0 and trajectory[-1].isfinite().all()
        back = sample(eps, trajectory[-1], self.schedule.sampling(1000))
        assert (back - latents).abs().max() < 0.02  # first order

    @pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.3, 1.0])
    def test_every_level_joins_the_one_formula_in_v(self, alpha):
        """z' = cos(d) z + sin(d) v with d the angle between the levels (arXiv:2202.00512, appendix D): no division."""
        z, v = noise(1, 4, 8, 8, seed=1), noise(1, 4, 8, 8, seed=2)
        step = Step(0, 999, 0.0, alpha)
        turn = math.acos(alpha**0.5) - math.acos(0.0)
        moved = move(z, self.schedule.to_eps(v, z, step), 0.0, alpha)
        assert torch.allclose(moved, math.cos(turn) * z + math.sin(turn) * v, atol=1e-12)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(("kind", "prediction"), [("epsilon", "eps"), ("v_prediction", "v")])
class TestGolden:
    """Ten steps of a small network against stored trajectories, whole tensors."""

    def test_timesteps(self, kind, prediction, offset, device):
        stored = golden(f"ddim.{kind}.offset{offset}.timesteps", device).tolist()
        assert Schedule(prediction=prediction, offset=offset).timesteps(10) == stored

    def test_sampling_with_guidance(self, kind, prediction, offset, device):
        schedule, context = Schedule(prediction=prediction, offset=offset), golden("text.context", device)
        eps = guided_eps(golden_model("ldm", device).unet, schedule, context[1:], context[:1], 7.5)
        start = golden("unet.latent", device)[:1]
        trajectory = [start, *walk(eps, start, schedule.sampling(10))]
        stored = golden(f"ddim.{kind}.offset{offset}.sampling", device)
        assert distance(torch.cat(trajectory), stored) < bound("ddim.sampling", device)

    def test_inversion(self, kind, prediction, offset, device):
        schedule, context = Schedule(prediction=prediction, offset=offset), golden("text.context", device)
        eps = guided_eps(golden_model("ldm", device).unet, schedule, None, context[:1], 1.0)
        trajectory = invert(eps, 4 * golden("vae.latent", device)[:1], schedule.inversion(10))
        stored = golden(f"ddim.{kind}.offset{offset}.inversion", device)
        key = "ddim.inversion.v.offset0" if (kind, offset) == ("v_prediction", 0) else "ddim.inversion"
        assert distance(torch.cat(trajectory), stored) < bound(key, device)


def test_alpha_bar_is_the_stored_one(device):
    stored = golden("schedule.alphas_cumprod", device).double()
    assert torch.allclose(Schedule().alpha_bar.to(device), stored, atol=1e-6)  # stored from float32 arithmetic


class TestFreshNoise:
    """eta above 0: a part of the estimated noise is replaced at every step."""

    def test_an_eta_of_nothing_is_move(self):
        z, eps, fresh = (noise(1, 4, 2, 2, seed=i) for i in range(3))
        for alphas in ((0.1, 0.5), (0.5, 0.5), (0.5, 1.0), (0.0, 0.3)):
            assert torch.allclose(move_anew(z, eps, *alphas, 0.0, fresh), move(z, eps, *alphas), atol=1e-14)

    @pytest.mark.parametrize("eta", [0.3, 1.0])
    def test_it_is_the_published_formula(self, eta):
        """Eq. 12, with sigma of eq. 16, number by number."""
        a, b, z, e, n = 0.2, 0.35, 0.7, -0.4, 1.3
        sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        x0 = (z - math.sqrt(1 - a) * e) / math.sqrt(a)
        wanted = math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * e + sigma * n
        z, e, n = (torch.tensor(x, dtype=torch.float64) for x in (z, e, n))
        found = move_anew(z, e, a, b, eta, n)
        assert found.item() == pytest.approx(wanted, abs=1e-12)

    def test_the_level_of_noise_stays_right(self):
        """Latents of a known mixture come out as noisy as the level says, whatever eta is."""
        eps, fresh = noise(200_000, seed=1), noise(200_000, seed=2)
        for eta in (0.0, 0.5, 1.0):
            moved = move_anew((1 - 0.2) ** 0.5 * eps, eps, 0.2, 0.6, eta, fresh)
            assert moved.std().item() == pytest.approx((1 - 0.6) ** 0.5, rel=1e-2)  # of 200,000 draws

    def test_noise_is_drawn_once_a_step_in_order(self):
        steps, drawn_for = Schedule().sampling(4), []
        out = sample(lambda z, s: z, noise(1, 4, 2, 2), steps, eta=1.0, noise=lambda z: drawn_for.append(z) or z)
        assert len(drawn_for) == 4 and out.isfinite().all()
        runs = [
            sample(lambda z, s: z, noise(1, 4, 2, 2), steps, eta=1.0, noise=normal(torch.Generator().manual_seed(seed)))
            for seed in (0, 0, 1)
        ]
        assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])

    @pytest.mark.parametrize("given", [{"eta": 0.5}, {"noise": lambda z: z}])
    def test_one_without_the_other_is_refused(self, given):
        with pytest.raises(ValueError, match="give both, or none of the two"):
            sample(lambda z, s: z, noise(1), Schedule().sampling(2), **given)

    @pytest.mark.parametrize("numbers", [(0.5, 0.4, 1.0), (0.4, 0.5, 1.1), (0.4, 0.5, -0.1), (0.4, 1.5, 0.5)])
    def test_impossible_numbers_are_refused(self, numbers):
        with pytest.raises(ValueError, match="want levels that rise, and eta in"):
            move_anew(noise(1), noise(1), *numbers, noise(1))
