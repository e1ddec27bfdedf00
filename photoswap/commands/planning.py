"""`photoswap swap --plan auto`: its flags, the plans it makes, and what it says of them."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from photoswap.commands import arguments as types
from photoswap.commands.common import refuse
from photoswap.commands.outputs import say

if TYPE_CHECKING:
    from models.stable_diffusion import StableDiffusion
    from photoswap.method import Method
    from photoswap.pipeline import SwapRequest
    from photoswap.plan_search import SwapPlan

DRAFT_FILE = "plan-draft.json"
LAMBDA_FLAGS = ("phi", "M", "A")  # settings with flags of their own; others are said by --set


def add_plan(group: argparse._ArgumentGroup) -> None:
    """The flags of a plan."""
    group.add_argument(
        "--plan",
        choices=("auto",),
        help="try a few values of the settings below, or of the method's, and take the best for this picture and this "
        "subject; those that are given stay (default: the published ones)",
    )
    group.add_argument(
        "--at-once",
        type=types.whole(1, 1000),
        metavar="N",
        help="with --plan: swaps side by side; more share more work and want more memory (default: 9)",
    )


def check_plan(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that contradict a plan, or that mean nothing without one."""
    if arguments.plan is None:
        refuse(arguments, "without --plan", "at_once")
    else:
        refuse(arguments, "beside --plan, which looks for those itself", "fractions")


def check_planned(arguments: argparse.Namespace, method: "Method") -> None:
    """Raise ValueError where the method, or what was given of it, leaves nothing to plan."""
    if arguments.plan is not None:
        from photoswap.plan_search import alternatives

        alternatives(method, given_settings(arguments))


def given_settings(arguments: argparse.Namespace) -> list[str]:
    """The settings that were given, which a plan leaves as they are."""
    given = [name for name in LAMBDA_FLAGS if getattr(arguments, name) is not None]
    return given + [name for name, _ in arguments.settings]


def make_plans(
    arguments: argparse.Namespace, model: "StableDiffusion", requests: "Sequence[SwapRequest]", classes: Sequence[str]
) -> "tuple[Sequence[SwapPlan | None], list[SwapRequest]]":
    """A plan for each request, None where none is asked for, and the requests with what was chosen.

    classes: what their concepts are in plain words. Raises KeyboardInterrupt, saying that the same command goes on.
    """
    if arguments.plan is None:
        return [None] * len(requests), list(requests)
    from photoswap.plan_search import TRIED_AT_ONCE, plan_swap

    plans, draft = [], arguments.out / DRAFT_FILE
    try:
        for request in requests:
            plans.append(
                plan_swap(
                    model,
                    request,
                    class_word=next(filter(None, classes), None),
                    fixed=given_settings(arguments),
                    at_once=arguments.at_once or TRIED_AT_ONCE,
                    progress=not arguments.quiet,
                    draft=draft,
                )
            )
    except KeyboardInterrupt:
        if not draft.exists():
            raise
        raise KeyboardInterrupt(f"interrupted; what was judged is in {draft}: the same command goes on") from None
    return plans, [replace(request, method=plan.method) for request, plan in zip(requests, plans, strict=True)]


def tell_plans(arguments: argparse.Namespace, plans: "Sequence[tuple[str, SwapPlan | None]]") -> None:
    """Say what was tried, what was chosen, what it cost, and how to have the same without a plan.

    plans: each with the prompt of its target.
    """
    for prompt, plan in plans:
        if plan is None:
            continue
        say(f'plan for "{prompt}":')
        say(plan.table())
        counted = f"{plan.row_calls} rows of the network with judging, {plan.row_calls_apart} for the swaps apart"
        say(f"plan: {len(plan.tried)} tried, {counted}")
        say(f"plan: the same again by {' '.join(flags_of(plan.settings))}")
    if arguments.plan is not None:
        (arguments.out / DRAFT_FILE).unlink(missing_ok=True)


def flags_of(settings: dict[str, Any]) -> list[str]:
    """The flags that say what was chosen."""
    return [f"--{name} {v}" if name in LAMBDA_FLAGS else f"--set {name}={v}" for name, v in settings.items()]
