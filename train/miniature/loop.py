"""What both trainings from nothing share: several processes, a budget, an average of the weights, checkpoints.

Two processes of one thread each (torchrun --nproc-per-node 2 -m train.miniature...) are faster and steadier on a small
CPU than one process of two threads; on a GPU one process is enough.
"""

import argparse
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from train.miniature.data import WORLDS
from train.miniature.muon import Muon, split
from train.parallel import Team, own_device
from weights.atomic import atomic, clear


def noise(stream: list[int]) -> torch.Generator:
    """A generator on the CPU of its own for every stream (seed, process, step)."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))


def streams(seed: int, rank: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The random numbers of one step of one process: the same whether the training was stopped before it or not."""
    stream = [seed, rank, step]
    return np.random.default_rng(stream), noise(stream)


class Budget:
    """How far a run has come, from 0 to 1: by steps, or by minutes of training where those are given."""

    def __init__(self, steps: int, minutes: float | None) -> None:
        self.steps, self.minutes = steps, minutes
        self.step, self.spent, self.last = 0, 0.0, time.monotonic()

    @property
    def share(self) -> float:
        """Of the budget, what is used so far."""
        return min(self.spent / (60 * self.minutes) if self.minutes else self.step / self.steps, 1.0)

    def tick(self) -> float:
        """Count one step; the share of the budget used with it."""
        now = time.monotonic()
        self.step, self.spent, self.last = self.step + 1, self.spent + now - self.last, now
        return self.share


def pace(progress: float, warm: float = 0.02) -> float:
    """The learning rate's factor: a short linear rise, then half a cosine down to 2 %."""
    if progress < warm:
        return 0.05 + 0.95 * progress / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def training_parser(about: str | None, out: str, *, steps: int, batch: int, lr: float) -> argparse.ArgumentParser:
    """The flags that every training on the drawn world has, with these numbers where none are given.

    about: what the command does. batch: of each process.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[Path("runs/data")], help="one or more folders")
    parser.add_argument("--world", choices=WORLDS, default="small", help="the world the data shows, for held-out looks")
    parser.add_argument("--out", type=Path, default=Path(out), help="where a stopped training is kept")
    parser.add_argument("--device", type=own_device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, help="stop by the clock instead of by steps")
    parser.add_argument("--batch", type=int, default=batch, help="rows a step, in each process")
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    return parser


class Trainer:
    """Optimisers, weight average, checkpoints and progress bar around a module whose loss the caller computes.

    plain: words in the names of parameters that Muon should leave to AdamW.
    """

    def __init__(
        self,
        module: nn.Module,
        plain: tuple[str, ...],
        lr: float,
        budget: Budget,
        folder: Path,
        ema: float = 0.999,
        save_every: float = 240.0,
    ) -> None:
        self.module, self.budget, self.folder, self.ema_decay, self.save_every = module, budget, folder, ema, save_every
        matrices, others = split(module, plain)
        self.params = matrices + others
        self.device = self.params[0].device
        self.team = Team.join(self.device)
        if self.team.count > 1:
            torch.set_num_threads(max((os.cpu_count() or self.team.count) // self.team.count, 1))
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=lr),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, foreach=True),
        ]
        self.lr = lr
        self.ema = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.path = folder / "checkpoint.pt"
        self.resume()

    def progress(self) -> Iterator[tuple[int, float]]:
        """Yield (step, share of the budget) for the caller to take that step, until the budget is spent.

        Saves now and then, and when it is spent; always between two steps.
        """
        layout = "{l_bar}{bar}| {elapsed} {postfix}"
        with tqdm(total=100, disable=not self.team.leads, unit="%", bar_format=layout) as self.bar:
            saved = self.budget.last = time.monotonic()
            share = self.team.first(self.budget.share, self.device)
            while share < 1:
                yield self.budget.step + 1, share
                share = self.team.first(self.budget.share, self.device)
                self.bar.update(100 * share - self.bar.n)
                if share >= 1 or time.monotonic() - saved > self.save_every:
                    self.save()
                    saved = time.monotonic()

    def step(self, loss: Tensor, share: float, clip: float = 1.0) -> None:
        """One descent step on a loss, counted; share sets the pace."""
        loss.backward()
        self.team.average(self.params)
        nn.utils.clip_grad_norm_(self.params, clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * pace(share)
            optimizer.step()
            optimizer.zero_grad()
        decay = min(self.ema_decay, (1 + self.budget.step) / (10 + self.budget.step))
        names = list(self.ema)
        state = self.module.state_dict()
        torch._foreach_lerp_([self.ema[n] for n in names], [state[n] for n in names], 1 - decay)
        self.budget.tick()

    def save(self) -> None:
        """Write everything a later run needs, completely or not at all; only the first process writes."""
        if not self.team.leads:
            return
        state: dict[str, Any] = {
            "module": self.module.state_dict(),
            "ema": self.ema,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.budget.step,
            "spent": self.budget.spent,
        }
        with atomic(self.path) as place:
            torch.save(state, place)

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if there is one, and clear away what a killed run left half-written."""
        clear(self.folder)
        if not self.path.exists():
            return
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.ema = state["ema"]
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.budget.step, self.budget.spent = state["step"], state["spent"]
