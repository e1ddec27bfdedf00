"""SwapAnything and masked AdaIN against slow versions, in float64 on the golden network."""

import math
from dataclasses import replace

import pytest
import torch
from oracle import Controller
from slow_methods import softmax
from test_methods import INSERTED, MASKS, SIZE, STEPS, model_of, ours, refined, slow
from tiny import distance

from photoswap.blend import Blend, masked_adain
from photoswap.methods import Photoswap, SwapAnything

TOLERANCE, ELSEWHERE = 1e-10, 1e-3


class SlowSwapAnything(Controller):
    """Outside the target's mask the source's phi, M and A, by places; inside the target's own."""

    def __init__(self, unet, steps, phi, M, A):
        super().__init__(unet, steps, SIZE, None, {"A": 0, "phi": -1, "M": 0})
        self.phi, self.M, self.A = phi, M, A

    def attend(self, q, k, v, is_cross, place):
        maps = [softmax(q[i], k[i]) for i in range(4)]
        heads = [maps[i] @ v[i] for i in range(4)]
        times = round(math.sqrt(MASKS[1].numel() / q.shape[2]))
        inside = MASKS[1][::times, ::times].flatten().tolist()
        swapped = dict(enumerate(heads))
        if is_cross and self.cur_step < self.A:
            columns = [
                maps[3][..., j] if pair is None else maps[2][..., pair[0][1]]
                for j, pair in enumerate(refined(INSERTED))
            ]
            swapped[3] = torch.stack(columns, dim=-1) @ v[3]
        elif not is_cross and self.cur_step < self.phi:
            swapped[1], swapped[3] = heads[0], heads[2]
        elif not is_cross and self.cur_step < self.M:
            swapped[3] = maps[2] @ v[3]
        for i in (1, 3):
            rows = [heads[i][:, n] if inside[n] else swapped[i][:, n] for n in range(len(inside))]
            heads[i] = torch.stack(rows, dim=1)
        self.count()
        return torch.stack(heads)


class SlowLatents:
    """Behind each step: the source's statistics inside, for so many steps the source outside."""

    def __init__(self, steps, adain):
        self.steps, self.adain, self.step = steps, adain, 0

    def __call__(self, latents, sums):
        source, target = latents
        places = [(y, x) for y in range(SIZE[0]) for x in range(SIZE[1])]
        result = target.clone()
        for channel in range(4):
            own, theirs = ([float(z[channel, y, x]) for y, x in places if MASKS[1][y, x]] for z in (target, source))
            (shift, scale), (new_shift, new_scale) = ((mean(x), deviation(x)) for x in (own, theirs))
            for y, x in places:
                if MASKS[1][y, x] and self.adain:
                    value = (float(target[channel, y, x]) - shift) / scale
                    result[channel, y, x] = value * new_scale + new_shift
                elif not MASKS[1][y, x] and self.step < self.steps:
                    result[channel, y, x] = source[channel, y, x]
        self.step += 1
        return torch.stack([source, result])


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    middle = mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / len(values))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("steps", STEPS)
def test_swap_anything(steps, prediction):
    method = SwapAnything.scaled(steps)
    control = SlowSwapAnything(model_of().unet, steps, method.phi, method.M, method.A)
    wanted = slow(control, prediction, blend=SlowLatents(method.latents, True))
    assert distance(ours(method, prediction), wanted) < TOLERANCE


def test_without_adain():
    method = SwapAnything.scaled(8, adain=False)
    control = SlowSwapAnything(model_of().unet, 8, method.phi, method.M, method.A)
    assert distance(ours(method), slow(control, blend=SlowLatents(method.latents, False))) < TOLERANCE


def test_the_published_settings():
    method = SwapAnything()
    assert (method.latents, method.A, method.M, method.phi, method.steps) == (30, 20, 25, 10, 50)
    assert all(injection.where == "~subject" for step in range(50) for injection in method.injections(step))
    assert [len(list(method.injections(step))) for step in (0, 10, 20, 25)] == [2, 2, 1, 0]


@pytest.mark.parametrize("change", [{"phi": 0}, {"M": 0}, {"A": 0}, {"latents": 3}, {"adain": False}], ids=str)
def test_each_setting_counts(change):
    method = SwapAnything.scaled(8)
    assert distance(ours(replace(method, **change)), ours(method)) > ELSEWHERE


def test_it_is_not_photoswap_in_the_mask_s_absence_nor_with_a_blend():
    assert distance(ours(SwapAnything.scaled(8, adain=False, latents=0)), ours(Photoswap.scaled(8))) > ELSEWHERE
    with pytest.raises(ValueError, match="leave it out"):
        SwapAnything(blend=Blend())


def test_adain_gives_the_source_s_mean_and_deviation_inside_and_leaves_the_outside():
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(1, 4, 6, 5, generator=generator) * scale + shift for scale, shift in ((2, 1), (1, 0)))
    mask = torch.zeros(1, 1, 6, 5, dtype=torch.bool)
    mask[..., 1:4, 2:5] = True
    matched = masked_adain(source, target, mask)
    inside, outside = mask.expand(1, 4, -1, -1), ~mask.expand(1, 4, -1, -1)
    assert torch.equal(matched[outside], target[outside])
    for got, wanted in zip(matched[inside].reshape(4, -1), source[inside].reshape(4, -1), strict=True):
        assert abs(got.mean() - wanted.mean()) < 1e-5 and abs(got.std() - wanted.std()) < 1e-5
    order = [x[inside].reshape(4, -1).argsort(dim=1) for x in (matched, target)]
    assert torch.equal(*order)


def test_adain_of_nothing_and_of_one_place():
    source, target = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    nothing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert torch.equal(masked_adain(source, target, nothing), target)
    nothing[..., 2, 3] = True
    assert torch.allclose(masked_adain(source, target, nothing)[..., 2, 3], source[..., 2, 3])
