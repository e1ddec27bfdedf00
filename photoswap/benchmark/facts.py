"""What has to hold for the scores to mean something: the autoencoder, the inversions, the learnt subjects of a task."""

from typing import Any

import torch

from models.prompts import article
from models.stable_diffusion import StableDiffusion
from photoswap.benchmark.entries import NOT_INVERTED, NOTHING_LEARNT, Entry
from photoswap.benchmark.judge import Judge, capped_psnr
from photoswap.benchmark.plan import RunPlan
from photoswap.benchmark.shapes import true_shape
from photoswap.benchmark.workbench import Workbench
from photoswap.inversion import reconstruct
from photoswap.methods import Plain
from train.prior import SampleSettings, sample_pictures


def facts_of(bench: Workbench, judge: Judge, before: dict[str, Any]) -> dict[str, Any]:
    """The facts of a task, those known before among them.

    autoencoder: how near it brings the truth back, in the subjects and everywhere, and the source, PSNR in dB.
    inversions, by way of learning and of inverting: how near they lead back to the source, as a swap returns to it and
    by the noise alone under guidance, against the source and against what the autoencoder makes of it; seconds.
    concepts: the share of plain samples in which the recogniser finds the subject, and the seconds of learning.
    """
    model = bench.shelf.base_mark
    found: dict[str, Any] = {"model": model, "autoencoder": {}, "inversions": {}, "concepts": {}}
    found |= before if before.get("model") == model else {}
    if not found["autoencoder"]:
        found["autoencoder"] = _autoencoder(bench)
    inversions, concepts = dict(found["inversions"]), dict(found["concepts"])
    for entry in _ways(bench):
        name = way_name(entry, bench.plan)
        if name not in inversions:
            inversions[name] = _returned(bench, entry)
    for how in bench.plan.concepts:
        key = "+".join(bench.shelf.key(newcomer, how) for newcomer in bench.task.newcomers)
        wanted = {"key": key, "samples": bench.plan.samples, "recogniser": judge.known_by["recogniser"]}
        if {name: concepts.get(how, {}).get(name) for name in wanted} != wanted:
            concepts[how] = wanted | _recognised(bench, judge, how)
    return {**found, "inversions": inversions, "concepts": concepts}


def way_name(entry: Entry, plan: RunPlan) -> str:
    """What the facts call a way of learning and inverting, at the plan's guidance and steps."""
    steps = plan.steps or Plain().steps
    return f"{entry.concept}+{entry.inversion}+{plan.guidance_scale:g}+{steps}"


def _ways(bench: Workbench) -> list[Entry]:
    """One entry for every way of learning and inverting in the plan."""
    ways = {
        (entry.concept, entry.inversion): entry
        for entry in bench.plan.entries
        if entry.concept != NOTHING_LEARNT and entry.inversion != NOT_INVERTED
    }
    return list(ways.values())


def _autoencoder(bench: Workbench) -> dict[str, float]:
    seen, truth, source = bench.carried, bench.task.truth.image, bench.task.source.image
    inside = capped_psnr(seen.truth, truth, true_shape(bench.task))
    return {"subject": inside, "truth": capped_psnr(seen.truth, truth), "source": capped_psnr(seen.source, source)}


def _returned(bench: Workbench, entry: Entry) -> dict[str, float]:
    """How near an inversion leads back to the first subject's source, with the model that knows the newcomer."""
    model, (turn, *_) = bench.models(entry.concept)[0], bench.task.turns(bench.called(entry.concept))
    steps = bench.plan.steps or Plain().steps
    method = Plain(steps=steps, guidance_scale=bench.plan.guidance_scale)
    inversion, seconds = bench.inverted(model, entry, method, turn)
    found = {"seconds": round(seconds, 3)}
    for name, alone in (("returned", False), ("alone", True)):
        picture = reconstruct(model, inversion, bench.plan.guidance_scale, alone=alone)
        found[name] = capped_psnr(picture, bench.carried.source)
        found[f"{name} to the source"] = capped_psnr(picture, bench.task.source.image)
    return found


def _recognised(bench: Workbench, judge: Judge, how: str) -> dict[str, Any]:
    """Whether plain samples of the learnt subjects show them. None where there is nobody to recognise them."""
    seconds = [bench.shelf.take(newcomer, how)[1] for newcomer in bench.task.newcomers]
    found: dict[str, Any] = {"seconds": round(sum(seconds), 3), "recognised": None}
    if judge.recogniser is None:
        return found
    shares = []
    for newcomer, model in zip(bench.task.newcomers, bench.models(how), strict=True):
        subject = bench.shelf.subject(newcomer, how)
        pictures = _samples(model, f"a photo of {article(subject)} {subject}", bench)
        shares.append(judge.recognises(pictures, newcomer.look))
    return found | {"recognised": sum(shares) / len(shares)}


@torch.no_grad()
def _samples(model: StableDiffusion, prompt: str, bench: Workbench) -> list[Any]:
    plan = bench.plan
    steps = plan.steps or Plain().steps
    settings = SampleSettings(model.config.native_size, steps, plan.guidance_scale, plan.seed)
    return sample_pictures(model, prompt, settings, range(plan.samples))
