"""The part of the benchmark that learns: a step of the miniature, with one of its savings taken away at a time."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from swap_model import picture

from benchmarks.measure import Clock, Figure
from benchmarks.parts import Bench
from train.config import LearnConfig, learn_config
from train.data import Stream
from train.lanes import Lanes
from train.learner import Learner
from train.methods import method_of
from train.ready import ready_to_learn

STEPS = 3  # in one measurement
LANE_ROWS = 8  # of the subject and of the class together, by the miniature's preset
AS_IT_IS: dict[str, dict[str, Any]] = {"dreambooth": {"token_steps": 0}, "lora": {"train_text_encoder": False}}
Change = Callable[[Learner], Any]


def learn(bench: Bench) -> Iterator[Figure]:
    """A step of DreamBooth and of LoRA without one of its savings, or with an option, against the step as it is."""
    for method, sides in SIDES.items():
        config = learn_config(method, "miniature", "cat", prior_weight=0.0, steps=10**6, **AS_IT_IS[method])
        with ExitStack() as stack:
            base = stepping(bench, stack, config)
            yield bench.seconds("learn", f"{STEPS} steps of {method}", base)
            jobs = [stepping(bench, stack, replace(config, **options), change) for options, change in sides.values()]
            found = bench.clock.ratios(jobs, base, max(1, bench.rounds - 2))
        for what, (value, low, high) in zip(sides, found, strict=True):
            yield Figure("learn", f"{method}: {what}", value, "x", low, high)
    config = learn_config("dreambooth", "miniature", "cat", prior_weight=0.0, token_steps=0, batch=LANE_ROWS)
    with ExitStack() as stack:  # two threads have the same work to do: only a clock on the wall sees them
        jobs = [stepping(bench, stack, config, two_lanes)]
        (found,) = Clock("wall").ratios(jobs, stepping(bench, stack, config), max(1, bench.rounds - 2))
    yield Figure("learn", f"dreambooth: {LANE_ROWS} rows in two lanes, seconds on the wall", found[0], "x", *found[1:])


def stepping(bench: Bench, stack: ExitStack, config: LearnConfig, change: Change | None = None) -> Callable[[], None]:
    """Some steps of such a learner."""
    learner = learner_for(bench, stack, config, change)

    def run() -> None:
        for _ in range(1 if bench.short else STEPS):
            learner.step()

    return run


def learner_for(bench: Bench, stack: ExitStack, config: LearnConfig, change: Change | None) -> Learner:
    """A learner in a model of its own, which is ready for as long as the stack is open."""
    model = deepcopy(bench.model)
    size = 64 if bench.short else model.config.native_size
    references = [picture(size + 32, size, seed) for seed in range(4)]
    examples = method_of(config).examples(model, config, size, [references])
    placed = stack.enter_context(ready_to_learn(model, config))
    learner = Learner(model, config, placed, Stream(examples, model.schedule.train_steps, 0), None)
    if change:
        change(learner)
    return learner


def two_lanes(learner: Learner) -> None:
    """Half of the rows beside the other half."""
    learner.lanes = Lanes()


def not_fused(learner: Learner) -> None:
    """AdamW as a loop over the parameters."""
    given = {key: learner.optimizer.defaults[key] for key in ("betas", "eps", "weight_decay")}
    groups = [{"params": group["params"], "lr": group["lr"]} for group in learner.optimizer.param_groups]
    learner.optimizer = torch.optim.AdamW(groups, **given, foreach=False, fused=False)


def encoding_prompts(learner: Learner) -> None:
    """The text states of the frozen prompts, made in every step."""
    learner.frozen_context = None


SIDES: dict[str, dict[str, tuple[dict[str, Any], Change | None]]] = {
    "dreambooth": {
        "pictures encoded in every step (--random-crop)": ({"random_crop": True}, None),
        "AdamW not fused": ({}, not_fused),
        "activations recomputed (--gradient-checkpointing)": ({"gradient_checkpointing": True}, None),
        "the token alone (--token-steps)": ({"token_steps": 10**6}, None),
        "moments of one byte": ({"moments": "8bit"}, None),
        "bfloat16 autocast (--dtype bfloat16)": ({"bfloat16": True}, None),
    },
    "lora": {
        "pictures encoded in every step (--random-crop)": ({"random_crop": True}, None),
        "frozen prompts encoded in every step": ({}, encoding_prompts),
        "the text encoder learns too (--train-text-encoder)": ({"train_text_encoder": True}, None),
        "activations recomputed (--gradient-checkpointing)": ({"gradient_checkpointing": True}, None),
    },
}
