"""Guidance arithmetic, the order of the rows, and both kinds of prediction."""

import pytest
import torch

from samplers import Schedule, guide, guided_eps, sample

UNCOND, COND = torch.zeros(1, 77, 4), torch.ones(1, 77, 4)


def network(latents, t, context):
    """A stand-in whose answer tells the row's context, its latents and t apart."""
    return context.mean(dim=(1, 2)).reshape(-1, 1, 1, 1) * latents + t / 1000


def test_guide_extrapolates():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    assert torch.equal(guide(a, b, 0), a)
    assert torch.equal(guide(a, b, 1), b)
    assert torch.equal(guide(a, b, 7.5), torch.tensor([8.5, -13.0]))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_rows_are_uncond_then_cond_and_guided_before_converting(prediction):
    schedule, latents = Schedule(prediction=prediction), torch.arange(3.0).reshape(3, 1, 1, 1)
    seen = []

    def watched(rows, t, context):
        seen.append((rows, t, context))
        return network(rows, t, context)

    step = schedule.sampling(10)[2]
    eps = guided_eps(watched, schedule, UNCOND, COND, 3.0)(latents, step)
    (rows, t, context), *more = seen
    assert not more and t == step.t
    assert torch.equal(rows, latents.repeat(2, 1, 1, 1))
    assert torch.equal(context, torch.cat([UNCOND.expand(3, 77, 4), COND.expand(3, 77, 4)]))
    wanted = schedule.to_eps(step.t / 1000 + 3.0 * latents, latents, step.t)
    assert torch.allclose(eps, wanted, atol=1e-6)  # a few float32 roundings of numbers near 6


def test_without_unconditional_context_rows_are_not_doubled():
    schedule, latents = Schedule(prediction="eps"), torch.ones(2, 1, 1, 1)
    step, sizes = schedule.sampling(5)[0], []
    counted = lambda rows, t, context: sizes.append(len(rows)) or network(rows, t, context)  # noqa: E731
    guided_eps(counted, schedule, None, COND, 1.0)(latents, step)
    assert sizes == [2]
    with pytest.raises(ValueError, match="unconditional"):
        guided_eps(network, schedule, None, COND, 7.5)


def test_the_scale_may_follow_the_step():
    schedule, latents = Schedule(prediction="eps"), torch.ones(1, 1, 1, 1)
    eps = guided_eps(lambda rows, t, context: context[:, :1, :1, None], schedule, UNCOND, COND, lambda s: s.index)
    assert [eps(latents, s).item() for s in schedule.sampling(4)] == [0, 1, 2, 3]


def test_the_unconditional_context_may_follow_the_step():
    schedule, latents = Schedule(prediction="eps"), torch.ones(1, 1, 1, 1)
    eps = guided_eps(lambda r, t, c: c[:, :1, :1, None], schedule, lambda s: UNCOND + s.index, COND, 0.0)
    assert [eps(latents, s).item() for s in schedule.sampling(4)] == [0, 1, 2, 3]


def test_the_network_works_in_its_context_type_and_latents_stay_wide():
    schedule, seen = Schedule(prediction="eps"), []
    half = lambda rows, t, context: seen.append(rows.dtype) or rows  # noqa: E731
    eps = guided_eps(half, schedule, UNCOND.half(), COND.half(), 2.0)
    out = sample(eps, torch.ones(1, 4, 2, 2), schedule.sampling(3))
    assert set(seen) == {torch.float16} and out.dtype == torch.float32
