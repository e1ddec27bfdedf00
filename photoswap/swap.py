"""Swap the subject: denoise source and target side by side, the target borrowing the source's attention.

Photoswap, Algorithm 1. Four rows go through the network at every step: uncond source, uncond target, cond source, cond
target. Both start from the same noise, so that with every layer of attention borrowed the target would be the source;
the plan says which quantities are borrowed and for how many steps.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.hooks import Hook, Site, merge
from models.images import to_image
from models.stable_diffusion import StableDiffusion
from samplers import Step, guide, guided_eps, sample

from .blend import keep_source, subject_mask, watching
from .inversion import Inversion, initial_noise, null_context
from .plan import SwapPlan
from .sizes import latent_mask, place
from .tokens import align_prompts, subject_tokens

Words = tuple[list[int], list[int]]
Hooks = dict[Site, Hook]


@dataclass(frozen=True, eq=False)
class SwapResult:
    """What a swap leaves.

    result: the swapped picture at the source's own resolution. target, reconstruction: the target's and the source's
    row as decoded, at the size worked on. target_latents, source_latents: (1 4 h w). timings: seconds for each stage.
    settings: all that it took, ready for JSON.
    """

    result: Image.Image
    target: Image.Image
    reconstruction: Image.Image
    target_latents: Tensor
    source_latents: Tensor
    timings: dict[str, float]
    settings: dict[str, Any]


@torch.no_grad()
def swap(
    model: StableDiffusion,
    inversion: Inversion,
    source_prompt: str,
    target_prompt: str,
    plan: SwapPlan | None = None,
    *,
    source_word: str | None = None,
    target_word: str | None = None,
    mask: Image.Image | None = None,
    size: tuple[int, int] | None = None,
    progress: bool = False,
) -> SwapResult:
    """Put the target prompt's subject in the place of the source's.

    inversion: of the source, made with this very model. source_prompt, target_prompt: the same but for the subject.
    plan: what is swapped for how long; the paper's by default. source_word, target_word: the subject in each prompt;
    each, if given, must be there, and a plan with a blend needs both. mask: of the source picture's size, white where
    it may change; outside it the target's latents are the source's at every step, and the result's pixels too. size:
    (width, height) that the inversion is expected to have, if any. progress: whether to show a bar. Raises ValueError
    for an inversion of another model, size or number of steps, and for a prompt without its subject's word.
    """
    plan = plan or SwapPlan()
    inversion.check(model, plan.steps, size, plan.guidance_scale, source_prompt)
    words = _words(model, plan, (source_prompt, source_word), (target_prompt, target_word))
    side_by_side = _SideBySide(model, inversion, plan, source_prompt, target_prompt, words, mask)
    clock = _Clock()
    source_latents, target_latents = side_by_side.run(progress)
    clock.lap("denoise")
    # each row by itself: a batch of two may round differently, and the source must decode to what the VAE makes of it
    reconstruction, target = (to_image(model.decode(row)[0]) for row in (source_latents, target_latents))
    clock.lap("decode")
    result = place(target, inversion.source or reconstruction, mask)
    clock.lap("place")
    settings = {
        "model": model.config.name,
        "fingerprint": inversion.model,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "source_prompt": source_prompt,
        "target_prompt": target_prompt,
        "source_word": source_word,
        "target_word": target_word,
        "inversion": {"method": inversion.method, "prompt": inversion.prompt, "seed": inversion.seed},
        "size": list(target.size),
        "source_size": list(result.size),
        "mask": mask is not None,
        "plan": asdict(plan),
    }
    return SwapResult(result, target, reconstruction, target_latents, source_latents, clock.laps, settings)


@torch.no_grad()
def generate(
    model: StableDiffusion,
    prompt: str,
    seed: int,
    steps: int = 50,
    guidance_scale: float = 7.5,
    size: tuple[int, int] | None = None,
    negative_prompt: str = "",
    progress: bool = False,
) -> Image.Image:
    """Draw a picture of the prompt; the same as a synthetic source of this seed.

    size: (width, height), by default the model's native square. negative_prompt: what guidance leads away from.
    """
    null, context = model.encode_text(negative_prompt), model.encode_text(prompt)
    eps = guided_eps(model.unet, model.schedule, null, context, guidance_scale)
    noise = initial_noise(model, torch.Generator().manual_seed(seed), size)
    bar = partial(tqdm, desc="sampling", disable=not progress)
    return to_image(model.decode(sample(eps, noise, model.schedule.sampling(steps), progress=bar))[0])


class _SideBySide:
    """One run of source and target: holds what no step changes, and the heat that the blend adds up over steps."""

    def __init__(
        self,
        model: StableDiffusion,
        inversion: Inversion,
        plan: SwapPlan,
        source_prompt: str,
        target_prompt: str,
        words: Words | None,
        mask: Image.Image | None,
    ) -> None:
        self.model, self.inversion, self.plan, self.words = model, inversion, plan, words
        self.context = model.encode_text([source_prompt, target_prompt])
        self.null: Callable[[int], Tensor] = null_context(model, inversion)
        self.alignment = None
        if plan.align == "tokens":
            self.alignment = align_prompts(model.tokenizer, source_prompt, target_prompt)
        self.noise = inversion.source_at(-1).to(model.device)
        h, w = self.noise.shape[2:]
        factor = model.config.vae.factor
        self.mask = None if mask is None else latent_mask(mask, (w * factor, h * factor), factor).to(model.device)
        self.heat: Tensor | None = None

    def run(self, progress: bool) -> tuple[Tensor, Tensor]:
        """The clean latents of source and target, (1 4 h w) each."""
        bar = partial(tqdm, desc="swap", disable=not progress)
        steps = self.model.schedule.sampling(self.plan.steps)
        rows = sample(self.eps, self.noise.repeat(2, 1, 1, 1), steps, after=self.after, progress=bar)
        return rows[:1], rows[1:]

    def eps(self, latents: Tensor, step: Step) -> Tensor:
        """The guided noise estimate of both rows, with the swaps of this step."""
        seen: list[Tensor] = []
        context = torch.cat([self.null(step.index).expand(2, -1, -1), self.context])
        rows = latents.repeat(2, 1, 1, 1).to(context.dtype)
        outputs = self.model.unet(rows, step.t, context, self.hooks(step.index, seen)).to(latents.dtype)
        if seen:
            heat = torch.stack(seen).mean(dim=0)
            self.heat = heat if self.heat is None else self.heat + heat
        uncond, cond = outputs.chunk(2)
        return self.model.schedule.to_eps(guide(uncond, cond, self.plan.guidance(step.index)), latents, step)

    def hooks(self, index: int, seen: list[Tensor]) -> Hooks:
        """The plan's hooks and, behind them, what the blend reads."""
        sites, blend = self.model.unet.sites, self.plan.blend
        hooks = self.plan.hooks(index, sites, self.alignment)
        return merge(hooks, watching(blend, sites, self.words, seen)) if blend and self.words else hooks

    def after(self, latents: Tensor, step: Step) -> Tensor:
        """Give the source its stored latents back, and the target the source's where the subject is not."""
        stored = self.inversion.returns_stored
        source = self.inversion.source_at(step.index).to(latents.device) if stored else latents[:1]
        return torch.cat([source, keep_source(source, latents[1:], self.region(step.index))])

    def region(self, index: int) -> Tensor | None:
        """Where the target keeps its own latents behind step index, (1 1 h w) bool; None for everywhere."""
        blend = self.plan.blend
        if blend is None or self.heat is None or index < blend.start_at(self.plan.steps):
            return self.mask
        subject = subject_mask(self.heat, blend, (self.noise.shape[2], self.noise.shape[3]))
        return subject if self.mask is None else subject & self.mask


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now


def _words(
    model: StableDiffusion, plan: SwapPlan, source: tuple[str, str | None], target: tuple[str, str | None]
) -> Words | None:
    """The columns of the subject in either prompt, None unless both words are named."""
    columns = [subject_tokens(model.tokenizer, prompt, word) for prompt, word in (source, target) if word is not None]
    if plan.blend and len(columns) < 2:
        raise ValueError("a blend needs the subject's word in the source's prompt and in the target's: name both")
    return (columns[0], columns[1]) if len(columns) == 2 else None
