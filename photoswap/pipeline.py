"""Swap the subject of a picture: from an inversion and a prompt to pixels.

The method is Photoswap's (arXiv:2305.18286, Algorithm 1) unless another is asked for; `side_by_side` is the loop, on
latents alone, and here is what stands around it: requests checked, swaps that share a run, a user's mask, the decoder,
and the source's own resolution. What the loop is given is made in photoswap/staging.py.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.stable_diffusion import StableDiffusion
from models.threads import in_suited_threads

from .blend import Inside, MaskedAdaIN
from .drawing import decoded
from .injections import REFERENCE, SOURCE, TARGET, as_json, timeline
from .inversion import Inversion
from .method import Follower, Method, Run
from .methods import Photoswap, name_of
from .origins import Renamed
from .pictures import Picture
from .side_by_side import Moment, phases, side_by_side
from .sizes import place
from .staging import Reference, decoded_size, latent_region, make_pictures, reference_picture


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


@dataclass(frozen=True, eq=False)
class SwapRequest:
    """One swap of several: the arguments of `swap`."""

    inversion: Inversion
    target_prompt: str
    method: Method | None = None
    source_prompt: str | None = None
    source_word: str | None = None
    target_word: str | None = None
    mask: Image.Image | None = None
    adain: bool = False
    reference: Reference | None = None
    seed: int = 0


def swap(
    model: StableDiffusion,
    inversion: Inversion,
    target_prompt: str,
    method: Method | None = None,
    *,
    source_prompt: str | None = None,
    source_word: str | None = None,
    target_word: str | None = None,
    mask: Image.Image | None = None,
    adain: bool = False,
    reference: Reference | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SwapResult:
    """Put the target prompt's subject in the place of the source's.

    inversion: of the source, made with this model. target_prompt: the source's but for the subject. method: what
    is injected for how long; by default the paper's, at the inversion's number of steps. source_prompt: the
    inversion's own unless told otherwise. source_word, target_word: the subject in each prompt; each, if given,
    must be there, and a method with a blend needs both. mask: of the source picture's size, white where it may
    change; outside it the target's latents are the source's at every step (or as long as the method says), and the
    result's pixels too. adain: whether the target's latents inside the mask take the source's mean and deviation
    after every step. reference: of methods that take the subject from one. size: (width, height) that the inversion
    is expected to have, if any. seed: of methods that draw noise. progress: whether to show a bar. Raises ValueError
    for an inversion of another model, size or number of steps, and for a prompt without its subject's word.
    """
    request = SwapRequest(
        inversion,
        target_prompt,
        method,
        source_prompt=source_prompt,
        source_word=source_word,
        target_word=target_word,
        mask=mask,
        adain=adain,
        reference=reference,
        seed=seed,
    )
    return swap_all(model, [request], size=size, progress=progress)[0]


@in_suited_threads
@torch.no_grad()
def swap_all(
    model: StableDiffusion,
    requests: Sequence[SwapRequest],
    *,
    size: tuple[int, int] | None = None,
    progress: bool = False,
    on_moment: Callable[[Moment], None] | None = None,
) -> list[SwapResult]:
    """Several swaps in one run: of one source into many targets, or of many sources of one size.

    Requests of the same inversion, told the same, share their source's rows, whose cost is then that of one; each
    result is that of its request alone but for rounding (1e-10 in float64). Requests that differ only in what their
    methods inject, and for how long, share the target's rows too, up to the step where that parts them. All take as
    many steps, from the same first one. size, progress: as in `swap`, which says what else there is to a request, and
    what is refused. on_moment: told what stands after each step, for previews; what it raises ends the run.
    """
    if not requests:
        raise ValueError("no swaps are asked for: give at least one request")
    asked = [_Asked.of(model, request, size) for request in requests]
    pictures = _in_one_run(asked)
    targets = [TARGET] if len(asked) == 1 else [f"{TARGET} {i}" for i in range(1, len(asked) + 1)]
    clock, followers, alike = _Clock(), [], dict[object, list[str]]()
    for one, target in zip(asked, targets, strict=True):
        alike.setdefault(one.kin, []).append(target)
        origins, own = pictures[target].origins, _inside(one.region, one.method, one.request.adain, target)
        followers += [Renamed(follower, origins) if origins else follower for follower in own]
    methods = {target: one.method for one, target in zip(asked, targets, strict=True)}
    draws = {name: torch.Generator().manual_seed(one.request.seed) for one, name in zip(asked, targets, strict=True)}
    moments = side_by_side(
        model.unet,
        model.schedule,
        pictures,
        methods,
        followers=followers,
        generator=draws,
        alike=list(alike.values()),
    )
    row_calls = sum(one.method.rows_before for one in asked)
    for moment in tqdm(moments, "swap", asked[0].method.steps - asked[0].method.first, disable=not progress):
        row_calls += len(moment.rows)
        if on_moment:
            on_moment(moment)
    clock.lap("denoise")
    # each row by itself: a batch of two may round differently, and the source must decode to what the VAE makes of it
    seen = {name: decoded(model, moment.latents[name]) for name in pictures if not name.startswith(REFERENCE)}
    clock.lap("decode")
    results = []
    for one, target in zip(asked, targets, strict=True):
        source = pictures[target].origins.get(SOURCE, SOURCE)
        result = place(seen[target], one.request.inversion.source or seen[source], one.request.mask)
        settings = {**one.settings(model), "size": list(seen[target].size), "source_size": list(result.size)}
        settings |= {"row_calls": row_calls, "swaps_in_run": len(asked)}
        latents = moment.latents[target], moment.latents[source]
        results.append(SwapResult(result, seen[target], seen[source], *latents, clock.laps, settings))
    clock.lap("place")
    return results


def rows_alone(model: StableDiffusion, request: SwapRequest) -> int:
    """The rows of the network that a request takes by itself; nothing is run for it. Raises as `swap` does."""
    one = _Asked.of(model, request, None)
    run = Run(model.unet, model.schedule, model.schedule.sampling(one.method.steps), one.pictures)
    found = phases(run, {TARGET: one.method}, one.method.followers(run, TARGET), one.method.first)
    return one.method.rows_before + sum(len(phase.rows) * len(phase.steps) for phase in found)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A request with all that follows from it: method, prompts, mask on the latents' grid, pictures as if alone."""

    request: SwapRequest
    method: Method
    prompts: tuple[str, str]
    region: Tensor | None
    pictures: dict[str, Picture]

    @classmethod
    def of(cls, model: StableDiffusion, request: SwapRequest, size: tuple[int, int] | None) -> "_Asked":
        inversion, reference, mask = request.inversion, request.reference, request.mask
        method = request.method or Photoswap.scaled(inversion.steps)
        prompts = (inversion.prompt if request.source_prompt is None else request.source_prompt, request.target_prompt)
        inversion.check(model, method.steps, size, method.guidance_scale, prompts[0])
        _check_wants(method, inversion, mask, reference)
        region = None if mask is None else latent_region(model, inversion, mask)
        words = (request.source_word, request.target_word)
        pictures = make_pictures(model, inversion, method, prompts, words, region)
        if reference is not None:
            reference.inversion.check(model, method.steps, decoded_size(model, inversion))
            pictures[REFERENCE] = reference_picture(model, reference, method)
        return cls(request, method, prompts, region, pictures)

    def shares(self, name: str) -> tuple[object, ...]:
        """Equal for two whose source, or reference, is the same row for row."""
        if name == REFERENCE:
            return name, id(self.request.reference)
        source, request = self.pictures[name], self.request
        own = id(self) if self.method.moves_source else None
        scale = None if source.is_known else source.guidance_scale
        told = (self.prompts[0], self.method.source_prompt, request.source_word, id(request.mask))
        return name, id(request.inversion), told, scale, own

    @property
    def kin(self) -> tuple[object, ...]:
        """Equal for two that differ in nothing but what their methods inject, and for how long."""
        request = self.request
        words, things = (request.source_word, request.target_word), (request.mask, request.inversion, request.reference)
        told = (*self.prompts, *words, request.adain, request.seed, *map(id, things))
        return *told, *self.method.beside_injections

    def settings(self, model: StableDiffusion) -> dict[str, Any]:
        """All that this one took, but for what its run shows."""
        request, method, inversion, reference = (
            self.request,
            self.method,
            self.request.inversion,
            self.request.reference,
        )
        injected = timeline(method.injections, method.steps, model.unet.sites, self.pictures[SOURCE].size)
        return {
            "model": model.config.name,
            "fingerprint": inversion.model,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "source_prompt": self.prompts[0],
            "target_prompt": self.prompts[1],
            "source_word": request.source_word,
            "target_word": request.target_word,
            "inversion": {"method": inversion.method, "prompt": inversion.prompt, "seed": inversion.seed},
            "mask": request.mask is not None,
            "adain": request.adain,
            "reference": reference and {"method": reference.inversion.method, "prompt": reference.inversion.prompt},
            "method": {"name": name_of(method), **asdict(method)},
            "injections": as_json(injected),
        }


def _in_one_run(asked: Sequence[_Asked]) -> dict[str, Picture]:
    """The pictures of all, by names that are numbered where there are several; a shared source is there once."""
    if len(asked) == 1:
        return asked[0].pictures
    names: dict[object, str] = {}
    pictures: dict[str, Picture] = {}
    for i, one in enumerate(asked, 1):
        origins = {own: names.setdefault(one.shares(own), f"{own} {i}") for own in one.pictures if own != TARGET}
        for own, picture in one.pictures.items():
            if own != TARGET:
                pictures.setdefault(origins[own], picture)
        pictures[f"{TARGET} {i}"] = replace(one.pictures[TARGET], origins=origins)
    return pictures


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now


def _inside(region: Tensor | None, method: Method, adain: bool, target: str) -> list[Follower]:
    """What goes by a mask after every step, if there is one."""
    if region is None:
        if adain:
            raise ValueError("AdaIN goes by the subject's statistics: give a mask that says where it is")
        return []
    matched: list[Follower] = [MaskedAdaIN(region, target)] if adain else []
    return matched if method.keeps_outside else [*matched, Inside(region, target)]


def _check_wants(method: Method, inversion: Inversion, mask: Image.Image | None, reference: Reference | None) -> None:
    """Raise ValueError unless the method gets what it wants, and nothing that it would ignore."""
    name = name_of(method)
    if "mask" in method.wants and mask is None:
        raise ValueError(f"{name} wants a mask: a picture of the source's size, white where it may change")
    if ("reference" in method.wants) != (reference is not None):
        wants = "wants a reference, with its mask" if reference is None else "takes no reference; leave it out"
        raise ValueError(f"{name} {wants}")
    if method.inverts and inversion.method == "none":
        raise ValueError(f"{name} starts from the source's noise, and this source was not inverted: invert it")
