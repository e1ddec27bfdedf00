"""What each method injects, where and when, and how many rows of the network that takes; nothing is run for it."""

import inspect
from collections.abc import Sequence
from dataclasses import fields

import torch

from models.unet import UNet
from samplers import Schedule

from .injections import SOURCE, TARGET, as_table, timeline
from .method import Method, Run
from .pictures import Picture
from .side_by_side import phases


def row_calls(method: Method, unet: UNet, schedule: Schedule, size: tuple[int, int]) -> int:
    """The rows of the network that a run takes over a stored trajectory. size: (h, w) of the latents."""
    noise = torch.zeros(1, unet.config.in_channels, *size)
    context = torch.zeros(1, 77, unet.config.context_channels)
    known = noise.expand(method.steps, -1, -1, -1)
    told_nothing = method.source_prompt == ""
    masks = {"subject": torch.ones(size)}
    half = None if told_nothing else context
    source = Picture(noise, context, half, method.guidance_scale, known, words=(1,), masks=masks)
    target = Picture(noise, context, context, method.guidance_scale, words=(1,), masks=masks)
    run = Run(unet, schedule, schedule.sampling(method.steps), {SOURCE: source, TARGET: target})
    found = phases(run, {TARGET: method}, method.followers(run, TARGET))
    return sum(len(phase.rows) * len(phase.steps) for phase in found)


def described(name: str, method: Method, unet: UNet, schedule: Schedule, size: tuple[int, int]) -> str:
    """A method as text: where it comes from, its settings, its injections at these sites, and its row-calls."""
    module = inspect.getdoc(inspect.getmodule(type(method))) or ""
    common = [field.name for field in fields(Method)]
    settings = {field.name: getattr(method, field.name) for field in fields(method)}
    told = [name for name in settings if name not in common or settings[name] not in (None, "")]
    injections = timeline(method.injections, method.steps, unet.all_sites, size)
    return "\n".join(
        [
            name,
            *_indented(module.splitlines()[:1]),
            *_indented([" ".join(f"{name}={settings[name]!r}" for name in told)]),
            *_indented(as_table(injections).splitlines() if injections else ["nothing is injected"]),
            *_indented([f"{row_calls(method, unet, schedule, size)} rows of the network in {method.steps} steps"]),
        ]
    )


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
