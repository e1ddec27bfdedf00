"""How large the optimizer's steps are over a run.

Constant, as DreamBooth and those after it were published; or falling linearly to zero, so that the last steps add
little of their own pictures' noise, and a run may begin with larger ones and be shorter.
"""

import torch

from train.config import LearnConfig


class Rates:
    """The rates of each group of an optimizer, step by step. first: steps whose rates are somebody else's to set."""

    def __init__(self, optimizer: torch.optim.Optimizer, config: LearnConfig, first: int = 0) -> None:
        self.optimizer, self.falling, self.first, self.steps = optimizer, falls(config), first, config.steps
        self.full = [group["lr"] for group in optimizer.param_groups]

    def set(self, done: int) -> None:
        """Before the step after `done` ones."""
        if self.falling and done >= self.first:
            left = (self.steps - done) / (self.steps - self.first)
            for group, rate in zip(self.optimizer.param_groups, self.full, strict=True):
                group["lr"] = rate * left


def falls(config: LearnConfig) -> bool:
    """Whether the rates go by how many steps the run has, so that another number makes another run of it."""
    return config.rate_schedule == "linear"
