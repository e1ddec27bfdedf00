"""Choose how long to inject what, for one picture and one concept, without knowing the right answer.

The lambdas of the paper (arXiv:2305.18286, section 4.3) are the same for every picture. Here a few values of each are
tried in all combinations over one inversion, each result is judged (`photoswap.plan_scores`), and the best is chosen.
Swaps that begin alike are computed once (`photoswap.pipeline.swap_all`), so that they cost about half of what they
would apart. What is chosen is a plain method, so a swap by it is the swap with those settings, bit for bit.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from models.stable_diffusion import StableDiffusion
from weights.atomic import atomic
from weights.checksum import digest_of

from .masks import TIMESTEPS, find_subject
from .method import Method
from .methods import Photoswap, name_of
from .pipeline import SwapRequest, decoded, rows_alone, swap_all
from .plan_scores import Critic, summed_scores
from .tokens import replace_word

TRIED_AT_ONCE = 9  # swaps in one tree, which bounds its memory: two rows each at the end
DRAFTS = "drafts of plans"
PLAN_VERSION = 1  # of the scores and their rule; another makes nothing true that was judged before
# What is tried beside what the method has; those that count steps, of 50, in proportion where there are more or fewer.
TRIED_VALUES: Mapping[str, Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "photoswap": {"phi": (0, 10, 20), "M": (0, 25, 40), "A": (0, 20, 40)},
        "swap-anything": {"phi": (0, 10, 20), "M": (0, 25, 40), "A": (0, 20, 40)},
        "prompt-to-prompt": {"self_replace_steps": (0.0, 0.2, 0.4, 0.8), "cross_replace_steps": (0.2, 0.4, 0.8, 1.0)},
        "plug-and-play": {"pnp_f_t": (0.0, 0.4, 0.8), "pnp_attn_t": (0.0, 0.25, 0.5, 0.8)},
        "masactrl": {"step": (4, 10, 25), "layer": (6, 10, 13)},
        "free-prompt-editing": {"self_replace_steps": (0.0, 0.2, 0.4, 0.6, 0.8)},
    }
)
COUNTED_SETTINGS = ("phi", "M", "A", "step")  # of the settings above, those that count steps


@dataclass(frozen=True)
class Tried:
    """One candidate: its settings, its scores, and their sum once each is stretched over all candidates."""

    settings: dict[str, Any]
    scores: dict[str, float]
    total: float


@dataclass(frozen=True, eq=False)
class SwapPlan:
    """What was chosen, and why.

    method: the chosen one. tried: every candidate, the request's own settings first. chosen: its place among them.
    row_calls: rows of the network that the choice took; row_calls_apart: with every swap by itself.
    """

    method: Method
    tried: tuple[Tried, ...]
    chosen: int
    row_calls: int
    row_calls_apart: int

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, by setting."""
        return self.tried[self.chosen].settings

    def record(self) -> dict[str, Any]:
        """The plan as JSON holds it."""
        told = {name: getattr(self, name) for name in ("chosen", "row_calls", "row_calls_apart")}
        return {"tried": [asdict(one) for one in self.tried], **told}

    def table(self) -> str:
        """Every candidate in a line, the best first; a star marks the settings that stand without a plan."""
        names = [*self.settings, *self.tried[0].scores, "sum"]
        lines = [names]
        for i in sorted(range(len(self.tried)), key=lambda i: (i != self.chosen, -self.tried[i].total)):
            one, forms = self.tried[i], {"background": ".1f", "identity": ".4f"}
            told = [str(value) for value in one.settings.values()]
            told += [f"{value:{forms[name]}}" for name, value in one.scores.items()]
            lines.append([*told, f"{one.total:.3f}" + " *" * (i == 0)])
        widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )


def plan_swap(
    model: StableDiffusion,
    request: SwapRequest,
    *,
    class_word: str | None = None,
    fixed: Collection[str] = (),
    at_once: int = TRIED_AT_ONCE,
    progress: bool = False,
    draft: Path | None = None,
) -> SwapPlan:
    """Try the settings of TRIED_VALUES for the request's method in all combinations, and choose the best.

    class_word: what the target is in plain words, "cat" for "sks cat", which makes the rival that the target's prompt
    is held against; without it, that is the source's prompt. fixed: settings that stay as the request has them.
    at_once: swaps in one tree; more share more work and want more memory. draft: a file for what is judged already, so
    that the same call goes on where an earlier one was stopped; remove it when done. Without a mask the request needs
    the source's word, by which the subject is found. Raises ValueError for a method that has nothing to be chosen,
    and as `swap` does.
    """
    base = request.method or Photoswap.scaled(request.inversion.steps)
    request = replace(request, method=base)
    methods = alternatives(base, fixed)
    prompts = rival_prompts(request, class_word)
    apart = sum(rows_alone(model, replace(request, method=method)) for method in methods)
    notes = Draft.opened(draft, _asked(model, request, prompts))
    parts = [methods[first : first + at_once] for first in range(0, len(methods), at_once)]
    _judge(model, request, parts, prompts, notes, progress)
    scores = [notes.scores[_key(method)] for method in methods]
    sums = [round(one, 9) for one in summed_scores(scores)]  # so that rounding parts no equals
    names = TRIED_VALUES[name_of(base)]
    settings = [{name: getattr(method, name) for name in names} for method in methods]
    tried = tuple(Tried(*one) for one in zip(settings, scores, sums, strict=True))
    chosen = sums.index(max(sums))
    return SwapPlan(methods[chosen], tried, chosen, notes.row_calls, apart)


def alternatives(base: Method, fixed: Collection[str] = ()) -> list[Method]:
    """What is tried for a method: itself, then every combination of the values that injects something else.

    fixed: settings that stay as they are. Raises ValueError for a method without such values, and where all are fixed.
    """
    name = name_of(base)
    if "reference" in base.wants:
        raise ValueError(f"{name} takes its subject from a picture, so no prompt tells how near a swap comes to it")
    if name not in TRIED_VALUES:
        raise ValueError(
            f"{name} injects nothing for so many steps that could be planned; want {', '.join(TRIED_VALUES)}"
        )
    varied = {setting: values for setting, values in TRIED_VALUES[name].items() if setting not in fixed}
    if not varied:
        raise ValueError(
            f"{', '.join(TRIED_VALUES[name])} are given, which leaves nothing to plan: leave one of them out"
        )
    share = base.steps / 50
    scaled = [
        [round(v * share) if setting in COUNTED_SETTINGS else v for v in values] for setting, values in varied.items()
    ]
    found = {_injected(base): base}
    for point in product(*scaled):
        method = replace(base, **dict(zip(varied, point, strict=True)))
        found.setdefault(_injected(method), method)
    return list(found.values())


def rules_of_plans(method: Method) -> dict[str, Any]:
    """What a plan for this method follows from, beside what is planned: plain values, as JSON holds them."""
    return {"version": PLAN_VERSION, "values": dict(TRIED_VALUES[name_of(method)]), "at once": TRIED_AT_ONCE}


def rival_prompts(request: SwapRequest, class_word: str | None = None) -> tuple[str, str]:
    """The target's prompt, and the one it is held against: of its class if that is known, else the source's.

    Raises ValueError where these are the same.
    """
    target, rival = request.target_prompt, request.source_prompt or request.inversion.prompt
    if class_word and request.target_word and class_word != request.target_word:
        rival = replace_word(target, request.target_word, class_word)
    if rival == target:
        raise ValueError(f"a plan tells the target's prompt from the source's, and both are \"{target}\"")
    return target, rival


@dataclass(eq=False)
class Draft:
    """What of a plan is judged already, kept in a file if there is one. asked: what the plan is of."""

    file: Path | None
    asked: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    row_calls: int = 0

    @classmethod
    def opened(cls, file: Path | None, asked: str) -> "Draft":
        """The draft that the file has of this plan, else an empty one. Raises ValueError for a file of another kind."""
        kept = read_drafts(file).get(asked, {"scores": {}, "row_calls": 0})
        return cls(file, asked, kept["scores"], kept["row_calls"])

    def write(self) -> None:
        """Put it beside the drafts of other plans in the file."""
        if self.file is not None:
            drafts = {**read_drafts(self.file), self.asked: {"scores": self.scores, "row_calls": self.row_calls}}
            with atomic(self.file) as place:
                place.write_text(json.dumps({DRAFTS: drafts}, indent=1) + "\n", encoding="utf-8")


def read_drafts(file: Path | None) -> dict[str, Any]:
    """Drafts by what they are of; none where there is no file. Raises ValueError for a file that is none of ours."""
    if file is None or not file.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))[DRAFTS]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} holds no plan that was begun: remove it, or write elsewhere") from None
    return found


def _judge(
    model: StableDiffusion,
    request: SwapRequest,
    parts: Sequence[Sequence[Method]],
    prompts: tuple[str, str],
    notes: Draft,
    progress: bool,
) -> None:
    """Swap by the methods that are not judged yet, a tree for each part, and note their scores; the bar shows steps."""
    critic: Critic | None = None
    steps = parts[0][0].steps - parts[0][0].first
    with tqdm(total=len(parts) * steps, desc=f"plan of {sum(map(len, parts))} swaps", disable=not progress) as bar:
        for number, part in enumerate(parts, 1):
            if missing := [method for method in part if _key(method) not in notes.scores]:
                critic = critic or _critic(model, request, prompts, notes)
                requests = [replace(request, method=method) for method in missing]
                results = swap_all(model, requests, on_moment=lambda _: bar.update() and None)
                notes.row_calls += results[0].settings["row_calls"]
                for method, result in zip(missing, results, strict=True):
                    notes.scores[_key(method)] = critic.scores(result.target_latents, result.target)
                    notes.row_calls += critic.rows
                notes.write()
            bar.update(number * steps - bar.n)


def _critic(model: StableDiffusion, request: SwapRequest, prompts: tuple[str, str], notes: Draft) -> Critic:
    """The critic of a request's swaps; the subject is where the mask is, or where the source's word finds it."""
    inversion = request.inversion
    returned = decoded(model, inversion.source_at(inversion.steps - 1).to(model.device))
    if request.mask is not None:  # outside which a swap keeps every pixel
        return Critic.of(model, returned, request.mask, prompts, keeps_background=True)
    if request.source_word is None:
        raise ValueError("a plan wants to know where the subject is: give the source's word, or a mask")
    told = request.source_prompt or inversion.prompt
    mask = find_subject(model, inversion.source or returned, told, request.source_word, size=returned.size).mask
    notes.row_calls += len(TIMESTEPS)
    return Critic.of(model, returned, mask, prompts)


def _injected(method: Method) -> tuple[Any, ...]:
    """Equal for methods that inject the same in every step."""
    return tuple(tuple(method.injections(step)) for step in range(method.first, method.steps))


def _key(method: Method) -> str:
    """A candidate in a draft."""
    return json.dumps({name: getattr(method, name) for name in TRIED_VALUES[name_of(method)]})


def _asked(model: StableDiffusion, request: SwapRequest, prompts: tuple[str, str]) -> str:
    """What a candidate's scores follow from, in sixteen hexadecimal digits."""
    inversion, mask = request.inversion, request.mask
    tensors = {"trajectory": inversion.trajectory}
    tensors |= {} if inversion.null_contexts is None else {"null contexts": inversion.null_contexts}
    told = [PLAN_VERSION, inversion.model, str(model.dtype), model.device.type, inversion.method, digest_of(tensors)]
    told += [mask and hashlib.sha256(mask.tobytes()).hexdigest()]
    told += [prompts, request.source_prompt, request.source_word, request.target_word, request.adain, request.seed]
    told += [name_of(request.method or Photoswap()), asdict(request.method or Photoswap())]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
