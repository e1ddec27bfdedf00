"""Two phases: the token learns what it means, and only then everything learns (Break-A-Scene, arXiv:2305.16311).

A rare token means nothing, so at first all weights would move to make up for that. In the first phase its own rows of
the token embedding learn alone, at a rate of their own and without decay; then the optimizer begins afresh with all.
Rows of the class do not name the token, so they have nothing to say to it and are left out until then.
"""

from collections.abc import Mapping

import torch
from torch import nn

from models.stable_diffusion import StableDiffusion
from train.concepts.apply import EMBEDDING
from train.config import DreamBoothConfig, LearnConfig
from train.data import Rows
from train.sharding import placed_as


class TokenFirst:
    """Holds all but the token's rows for the first steps. parameters: all that learns, the embedding among them.

    batch: how many of a step's rows are the subject's; they come first.
    """

    def __init__(
        self,
        model: StableDiffusion,
        config: LearnConfig,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        batch: int,
    ) -> None:
        self.steps, self.parameters, self.optimizer = token_steps(config), parameters, optimizer
        self.batch = batch
        self.later = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        if isinstance(config, DreamBoothConfig) and self.steps:
            self.first = [(config.token_learning_rate, 0.0)] * len(self.later)
            self.rows = torch.zeros(len(parameters[EMBEDDING]), 1, device=model.device)
            self.rows[[token for token, _ in model.tokenizer.words(config.token)]] = 1
            self.rows = placed_as(self.rows, parameters[EMBEDDING])

    def rows_for(self, rows: Rows, done: int) -> Rows:
        """Of the rows of the step after `done` ones those that teach: in the first phase the subject's alone."""
        return rows.part(0, self.batch) if done < self.steps else rows

    def alone(self, done: int) -> list[nn.Parameter] | None:
        """What a gradient is wanted of in the step after `done` ones, where it is not everything."""
        return [self.parameters[EMBEDDING]] if done < self.steps else None

    def hold(self, done: int) -> None:
        """Before the step after `done` ones: in the first phase, take every gradient away but the token's."""
        if not self.steps:
            return
        now = self.first if done < self.steps else self.later
        for group, (rate, decay) in zip(self.optimizer.param_groups, now, strict=True):
            group["lr"], group["weight_decay"] = rate, decay
        if done < self.steps:
            for name, parameter in self.parameters.items():
                if name == EMBEDDING and parameter.grad is not None:
                    parameter.grad *= self.rows
                else:
                    parameter.grad = None

    def stepped(self, done: int) -> None:
        """After a step, `done` in all: at the end of the first phase the optimizer forgets what it has seen."""
        if self.steps and done == self.steps:
            self.optimizer.state.clear()


def token_steps(config: LearnConfig) -> int:
    """How many steps teach the token alone; none where the method does not know of it."""
    return config.token_steps if isinstance(config, DreamBoothConfig) else 0


def moved(names: list[str], done: int, first: int) -> tuple[list[str], int]:
    """Of those that learn, which the optimizer has moments of after so many steps, and of how many steps those are.

    first: how many steps teach the token alone.
    """
    if done < first:
        return ([EMBEDDING] if done else []), done
    return (names if done > first else []), done - first
