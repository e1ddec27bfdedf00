"""What each method injects, where and when, and how many rows of the network that takes; nothing is run for it."""

import inspect
from collections.abc import Sequence
from dataclasses import fields, replace

import torch

from models.unet import UNet
from samplers import Schedule

from .injections import REFERENCE, SOURCE, TARGET, as_table, timeline
from .method import Method, Run
from .pictures import Picture
from .side_by_side import phases


def row_calls(method: Method, unet: UNet, schedule: Schedule, size: tuple[int, int]) -> int:
    """The rows of the network that a run takes over a stored trajectory. size: (h, w) of the latents."""
    noise = torch.zeros(1, unet.config.in_channels, *size)
    context = torch.zeros(1, 77, unet.config.context_channels)
    scale = method.guidance_scale if method.source_guidance_scale is None else method.source_guidance_scale
    inside = {"subject": torch.ones(*size, dtype=torch.bool)}
    target = Picture(noise, context, context, method.guidance_scale, words=(1,), masks=inside, clean=noise)
    known = replace(target, known=noise.expand(method.steps, -1, -1, -1))
    source = replace(known, uncond=None if method.source_prompt == "" else context, guidance_scale=scale)
    pictures = {SOURCE: source, TARGET: target}
    if "reference" in method.wants:
        pictures[REFERENCE] = replace(known, uncond=None)  # told nothing
    run = Run(unet, schedule, schedule.sampling(method.steps), pictures)
    found = phases(run, {TARGET: method}, method.followers(run, TARGET), method.first)
    return method.rows_before + sum(len(phase.rows) * len(phase.steps) for phase in found)


def described(name: str, method: Method, unet: UNet, schedule: Schedule, size: tuple[int, int]) -> str:
    """A method as text: where it comes from, its settings, its injections at these sites, and its row-calls."""
    module = inspect.getdoc(inspect.getmodule(type(method))) or ""
    common = [field.name for field in fields(Method)]
    settings = {field.name: getattr(method, field.name) for field in fields(method)}
    told = [name for name in settings if name not in common or settings[name] not in (None, "")]
    rows = row_calls(method, unet, schedule, size)
    injections = timeline(method.injections, method.steps, unet.all_sites, size)
    return "\n".join(
        [
            name,
            *_indented(module.splitlines()[:1]),
            *_indented([" ".join(f"{name}={settings[name]!r}" for name in told)]),
            *_indented(as_table(injections).splitlines() if injections else ["nothing is injected"]),
            *_indented([f"{rows} rows of the network in {method.steps - method.first} steps"]),
        ]
    )


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
