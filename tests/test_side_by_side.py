"""The loop on latents alone: the rows it computes, where it lands against the run with all rows, who may drive it."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import pytest
import torch
from golden_model import golden_model
from tiny import distance

from photoswap.blend import Blend
from photoswap.injections import BOTH, COND, Injection, Row
from photoswap.method import Follower, Method, Run
from photoswap.methods import Photoswap, official
from photoswap.pictures import Picture
from photoswap.side_by_side import phases, side_by_side
from photoswap.tokens import align
from samplers import Schedule

ROUNDING = 1e-5  # float32: batches of other sizes add in another order, over 50 guided steps


class EveryRow(Follower):
    """Asks for all four rows in every step, as if nothing were known beforehand."""

    def rows(self):
        return [Row(half, name) for half in BOTH for name in ("source", "target")]


@pytest.fixture(scope="module")
def unet(device):
    return golden_model("ldm", device).unet


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures_of(unet, steps, known=True, targets=("target",), **changes):
    """Noise and contexts out of the air: nothing was inverted, nothing will be decoded."""
    width, device = unet.config.context_channels, unet.conv_in.weight.device
    noise, contexts, null = (
        drawn(1, 4, 16, 16, seed=0),
        drawn(1 + len(targets), 77, width, seed=1),
        drawn(1, 77, width, seed=2),
    )
    trajectory = drawn(steps, 4, 16, 16, seed=3) if known else None
    aligned = {"tokens": align([1, 2, 3, 4], [1, 2, 9, 3, 4])}
    every = {"source": Picture(noise, contexts[:1], null, known=trajectory, words=(2,))}
    for i, name in enumerate(targets):
        every[name] = Picture(noise, contexts[1 + i][None], null, words=(2, 3), alignments=aligned)
    return {name: moved(replace(picture, **changes), device) for name, picture in every.items()}


def moved(picture, device):
    tensors = {name: getattr(picture, name) for name in ("noise", "context", "uncond", "known")}
    return replace(picture, **{name: x if x is None else x.to(device) for name, x in tensors.items()})


def ran(unet, method, pictures, prediction="eps", **more):
    return list(side_by_side(unet, Schedule(prediction=prediction), pictures, method, **more))


def calls(moments):
    return [len(moment.rows) for moment in moments]


METHODS = {"paper": Photoswap(), "official": official(), "official without blend": official(blend=None)}


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("name", METHODS)
def test_rows_left_out_change_nothing(unet, name, prediction):
    """Measured: 5e-7 for eps, 2e-6 for v."""
    pictures, method = pictures_of(unet, 50), METHODS[name]
    few = ran(unet, method, pictures, prediction)
    every = ran(unet, method, pictures, prediction, followers=[EveryRow()])
    assert calls(every) == [4] * 50
    wanted = {"paper": 135, "official": 11 * 4 + 39 * 3, "official without blend": 11 * 4 + 14 * 3 + 25 * 2}
    assert sum(calls(few)) == wanted[name]
    assert torch.equal(few[-1].latents["source"], every[-1].latents["source"])
    assert distance(few[-1].latents["target"], every[-1].latents["target"]) < ROUNDING


def test_photoswap_over_a_stored_trajectory_takes_135_of_200_rows(unet):
    found = calls(islice(side_by_side(unet, Schedule(), pictures_of(unet, 50), Photoswap()), 50))
    assert found == [4] * 10 + [3] * 15 + [2] * 25 and sum(found) == 135


def test_a_source_that_is_not_known_is_computed_to_the_end(unet):
    assert calls(ran(unet, Photoswap.scaled(10), pictures_of(unet, 10, known=False))) == [4] * 10


def test_without_injections_only_the_target_is_computed(unet):
    moments = ran(unet, Method(steps=3), pictures_of(unet, 3))
    assert {moment.rows for moment in moments} == {(Row("uncond", "target"), Row("cond", "target"))}


def test_at_guidance_one_there_is_no_unconditional_row(unet):
    pictures = pictures_of(unet, 10, guidance_scale=1.0)
    assert calls(ran(unet, Photoswap.scaled(10), pictures)) == [2] * 5 + [1] * 5


def test_a_source_told_nothing_serves_both_halves_by_one_row(unet):
    """As in Plug-and-Play, whose source has the empty prompt."""
    pictures = pictures_of(unet, 4)
    source = pictures["source"]
    alone = pictures | {"source": replace(source, context=source.uncond, uncond=None)}
    twice = pictures | {"source": replace(source, context=source.uncond)}
    few, many = (ran(unet, Photoswap(steps=4, phi=4, M=4, A=0), each) for each in (alone, twice))
    assert calls(few) == [3] * 4 and calls(many) == [4] * 4
    assert distance(few[-1].latents["target"], many[-1].latents["target"]) < ROUNDING


def test_the_guidance_of_each_step_is_that_step_s(unet):
    """A scale for every step, all different, against the loop written out."""
    scales, schedule = (7.5, 1.0, 3.0, 5.0), Schedule(prediction="v")
    pictures = pictures_of(unet, 4, guidance_scale=scales)
    target, latents = pictures["target"], pictures["target"].noise
    with torch.no_grad():
        for step, scale in zip(schedule.sampling(4), scales, strict=True):
            uncond, cond = (unet(latents, step.t, context) for context in (target.uncond, target.context))
            v = uncond + scale * (cond - uncond)
            a, b = step.alpha_from, step.alpha_to
            x0, eps = a**0.5 * latents - (1 - a) ** 0.5 * v, a**0.5 * v + (1 - a) ** 0.5 * latents
            latents = b**0.5 * x0 + (1 - b) ** 0.5 * eps
    assert distance(ran(unet, Method(steps=4), pictures, "v")[-1].latents["target"], latents) < ROUNDING


def test_unconditional_contexts_of_each_step_are_that_step_s(unet):
    pictures = pictures_of(unet, 3, guidance_scale=2.0)
    target = pictures["target"]
    fitted = torch.cat([target.uncond, target.uncond + 1, target.uncond - 1])
    moments = ran(unet, Method(steps=3), {**pictures, "target": replace(target, uncond=fitted)})
    for i, moment in enumerate(moments):
        before = target.noise if i == 0 else moments[i - 1].latents["target"]
        with torch.no_grad():
            uncond, cond = (unet(before, moment.step.t, context) for context in (fitted[i][None], target.context))
        assert distance(moment.eps["target"], uncond + 2 * (cond - uncond)) < ROUNDING


def test_several_targets_share_one_source(unet):
    """Each with its own prompt and lambdas, and each as if it ran alone."""
    methods = {"red": Photoswap.scaled(10), "blue": Photoswap(steps=10, phi=0, M=8, A=3)}
    pictures = pictures_of(unet, 10, targets=tuple(methods))
    together = ran(unet, methods, pictures)
    assert calls(together) == [6] * 2 + [5] * 6 + [4] * 2
    for name, method in methods.items():
        alone = ran(unet, {name: method}, {"source": pictures["source"], name: pictures[name]})
        assert distance(together[-1].latents[name], alone[-1].latents[name]) < ROUNDING


@dataclass(frozen=True, kw_only=True)
class TwoSources(Method):
    counts: ClassVar = ("M",)
    M: int = 2

    def injections(self, step):
        if step < self.M:
            yield Injection("M", halves=COND)
            yield Injection("keys and values", origin="reference", halves=COND, joined=True)


def test_there_may_be_several_sources(unet):
    pictures = pictures_of(unet, 3)
    reference = replace(pictures["source"], context=pictures["source"].context + 1)
    moments = ran(unet, TwoSources(steps=3), pictures | {"reference": reference})
    assert moments[0].rows == (
        Row("uncond", "target"),
        Row("cond", "source"),
        Row("cond", "target"),
        Row("cond", "reference"),
    )
    assert calls(moments) == [4, 4, 2]


def test_a_run_is_cut_where_something_changes_and_nowhere_else(unet):
    method, pictures, schedule = Photoswap(), pictures_of(unet, 50), Schedule()
    run = Run(unet, schedule, schedule.sampling(50), pictures)
    found = phases(run, {"target": method})
    assert [(p.steps[0].index, p.steps[-1].index, len(p.rows)) for p in found] == [
        (0, 9, 4),
        (10, 19, 3),
        (20, 24, 3),
        (25, 49, 2),
    ]


def test_hooks_and_contexts_are_made_once_a_phase(unet, monkeypatch):
    made = []
    import photoswap.side_by_side as module

    original = module.hook_table
    monkeypatch.setattr(module, "hook_table", lambda *arguments: made.append(1) or original(*arguments))
    ran(unet, Photoswap.scaled(10), pictures_of(unet, 10))
    assert len(made) == 4


def test_callers_drive_it_and_may_stop_early(unet):
    moments = side_by_side(unet, Schedule(), pictures_of(unet, 10), Photoswap.scaled(10))
    first = next(moments)
    assert first.step.index == 0 and set(first.latents) == {"source", "target"} and set(first.eps) == {"target"}
    moments.close()
    assert torch.is_grad_enabled()
    three = list(islice(side_by_side(unet, Schedule(), pictures_of(unet, 10), Photoswap.scaled(10)), 3))
    assert torch.equal(three[0].latents["target"], first.latents["target"])


def test_a_known_picture_stands_where_it_is_known_to_stand(unet):
    pictures = pictures_of(unet, 5)
    for i, moment in enumerate(ran(unet, Photoswap.scaled(5), pictures)):
        assert torch.equal(moment.latents["source"], pictures["source"].known[i][None])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda p: {"source": p["source"]}, "there is a method for target, but no such picture"),
        (lambda p: p | {"source": replace(p["source"], guidance_scale=(1.0, 2.0))}, "2 guidance scales for 5 steps"),
        (
            lambda p: p | {"source": replace(p["source"], known=p["source"].known[:3])},
            "source has 3 latents for 5 steps",
        ),
        (lambda p: {"target": p["target"]}, "phi goes from source to target, but there is no source"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_before_the_first_step(unet, spoil, sentence):
    with pytest.raises(ValueError, match=sentence):
        ran(unet, Photoswap.scaled(5), spoil(pictures_of(unet, 5)))


def test_methods_that_do_not_fit_each_other_are_refused(unet):
    pictures = pictures_of(unet, 5, targets=("a", "b"))
    with pytest.raises(ValueError, match=r"the methods take \[4, 5\] steps"):
        ran(unet, {"a": Photoswap.scaled(5), "b": Photoswap.scaled(4)}, pictures)
    with pytest.raises(ValueError, match="name both"):
        ran(unet, {"a": Photoswap.scaled(5, blend=Blend())}, pictures_of(unet, 5, targets=("a",), words=()))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"noise": torch.zeros(2, 4, 8, 8)}, r"noise is \(2, 4, 8, 8\)"),
        ({"context": torch.zeros(77, 8)}, r"context is \(77, 8\)"),
        ({"uncond": torch.zeros(1, 77, 9)}, "same tokens and width"),
        ({"known": torch.zeros(5, 4, 8, 16)}, "of the same size"),
    ],
)
def test_senseless_pictures_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(Picture(torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, 8), torch.zeros(1, 77, 8)), **changes)
