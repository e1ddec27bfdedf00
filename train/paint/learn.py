"""Train a painter, step by step: resumable, and over several processes the same as in one."""

import json
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from models.paint_by_example import PaintByExample
from train.interrupt import deferring_ctrl_c
from train.miniature.loop import noise
from train.paint.config import PaintTraining
from train.paint.examples import BoxedPictures, PaintExample, row_of
from train.paint.kept import KeptRows, keep_rows
from train.paint.step import PaintRow, painting_loss, prepared, what_learns
from train.parallel import Team
from train.sharding import is_piece, placed_as, put_together
from weights import fingerprint
from weights.atomic import atomic
from weights.load import save
from weights.records import quoted

PAINT_CHECKPOINT, PAINTER_FILE, ROWS_FOLDER = "checkpoint.pt", "painter.safetensors", "rows"
RESTS = ("steps", "bfloat16", "gradient_checkpointing")  # what a resumed run may have otherwise
AVERAGED = 50  # steps, of the loss that is shown


class PaintRows(Dataset[Sequence[PaintExample]]):
    """The rows of every step, made wherever they are asked for."""

    def __init__(self, source: BoxedPictures, seed: int, size: int, reference_size: int, rows: range) -> None:
        self.source, self.seed, self.size, self.reference_size, self.rows = source, seed, size, reference_size, rows

    def __getitem__(self, step: int) -> list[PaintExample]:
        sizes = self.size, self.reference_size
        return [row_of(self.source, self.seed, step, row, *sizes) for row in self.rows]


@dataclass(frozen=True)
class Painted:
    """How far a training has come: steps made, and the loss of each since it was last begun."""

    steps: int
    losses: list[float]


class PaintLearner:
    """What changes while a painter learns. model: float32, trained in place. base: fingerprint of what it began as."""

    def __init__(self, model: PaintByExample, training: PaintTraining, team: Team, base: str) -> None:
        if model.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"the model is in {model.dtype}, where steps round to nothing; load it in float32")
        if training.batch % team.count:
            raise ValueError(f"batch {training.batch} does not split over {team.count} processes; want a multiple")
        self.model, self.training, self.team, self.base, self.done = model, training, team, base, 0
        self.between_steps = True
        for network in model.networks.values():
            network.requires_grad_(False)
        self.learning = what_learns(model, training.train_tower)
        for parameter in self.learning.values():
            parameter.requires_grad_(True)
        model.unet.gradient_checkpointing = training.gradient_checkpointing
        alike = [[p for p in self.learning.values() if is_piece(p) == cut] for cut in (True, False)]  # the U-Net first
        groups = [{"params": parameters} for parameters in alike if parameters]
        self.optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay)

    @property
    def rows(self) -> range:
        """Which rows of a step are this process's."""
        return range(self.team.rank, self.training.batch, self.team.count)

    def step(self, examples: Sequence[PaintRow]) -> float:
        """One step on this process's rows of it. Returns the loss over all of them. Raises ValueError for a NaN."""
        self.between_steps = False
        training, model, step = self.training, self.model, self.done
        shared = np.random.default_rng([training.seed, step])
        empty = bool(shared.random() < training.unconditional)
        t = torch.from_numpy(shared.integers(0, model.schedule.train_steps, training.batch))[list(self.rows)]
        generators = [noise([training.seed, step, row]) for row in self.rows]
        latents, rest, keep, references = prepared(model, examples, generators)
        eps = torch.cat([torch.randn((1, *latents.shape[1:]), generator=g) for g in generators]).to(latents)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=training.bfloat16):
            errors = painting_loss(model, latents, rest, keep, references, t, eps, empty)
        loss = errors.mean()
        loss.backward()
        self.team.average(self.learning.values())
        total = self.team.mean(loss.item(), model.device)
        if not total < float("inf"):
            raise ValueError(f"the loss is {total} at step {step + 1}; lower the learning rate and start again")
        for group in self.optimizer.param_groups:
            group["lr"] = training.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self.between_steps = True
        return total

    def state(self) -> dict[str, Any]:
        """All it takes to go on later. Of processes that hold pieces all ask for it, and the first gets the numbers."""
        keep, optimizer = self.team.leads, self.optimizer.state_dict()
        moments = {
            i: {key: put_together(value, keep) for key, value in own.items()} for i, own in optimizer["state"].items()
        }
        return {
            "weights": {name: put_together(p.detach(), keep) for name, p in self.learning.items()},
            "optimizer": {**optimizer, "state": moments},
            "done": self.done,
            "base": self.base,
            "settings": json.dumps(self.training.settings()),
        }

    def restore(self, state: dict[str, Any], where: str) -> None:
        """Go on from what `state` gave. Raises ValueError when that was another run's."""
        ours = self.training.settings()
        theirs = PaintTraining().settings() | json.loads(state["settings"])  # what it lacks came later, and was so
        free = set(RESTS) - ({"steps"} if self.training.cool else set())
        changed = [name for name in ours if name not in free and theirs.get(name) != ours[name]]
        if changed:
            told = "; ".join(f"{n} was {quoted(theirs.get(n))} and is {quoted(ours[n])}" for n in changed)
            raise ValueError(f"the run in {where} was begun otherwise: {told}; resume it with what it had")
        if state["base"] != self.base or state["weights"].keys() != self.learning.keys():
            raise ValueError(f"the run in {where} was begun with another model; resume it with that")
        with torch.no_grad():
            for name, parameter in self.learning.items():
                parameter.copy_(placed_as(state["weights"][name], parameter))
        places = list(self.learning.values())
        moments = {
            i: {key: value if key == "step" else placed_as(value, places[i]) for key, value in own.items()}
            for i, own in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.done = state["done"]

    @torch.no_grad()
    def bring_home(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put what was learnt in pieces into these parameters of the same names, in every process."""
        for name, learnt in self.learning.items():
            if is_piece(learnt):
                parameters[name].copy_(put_together(learnt))


def train_painter(
    model: PaintByExample,
    source: BoxedPictures,
    training: PaintTraining,
    out: str | Path,
    *,
    resume: bool = False,
    save_every: int = 1000,
    makers: int = 0,
    progress: bool = True,
    on_step: Callable[[int, float], None] | None = None,
    shards: bool = False,
) -> Painted:
    """Train a painter in place, and write it to painter.safetensors in `out`.

    source: pictures with boxes; where the configuration keeps rows, their files are in rows/ in `out`, for any run of
    the same rows, and nobody deletes them. resume: go on from the checkpoint in `out`, bit for bit as if never stopped.
    save_every: steps between checkpoints. makers: processes that make rows ahead; 0 makes them here. on_step: told the
    step, from 1, and its loss. In processes that torchrun started, each takes its share of every step's rows, the sums
    are those of one process within rounding, and the first one alone writes. shards: each process holds only its part
    of the U-Net while it learns (train/sharding.py).
    Raises ValueError for a checkpoint or kept rows of another run, for a checkpoint that is there and not to be
    resumed, for makers beside kept rows, for one process that shards, and for a loss that is no number. Ctrl-C leaves a
    checkpoint between two steps; a second one ends at once.
    """
    out = Path(out)
    size = training.size or model.config.native_size
    if size % model.config.granularity:
        raise ValueError(f"size is {size}; {model.config.name} wants a multiple of {model.config.granularity}")
    if training.kept and makers:
        raise ValueError("rows that are kept are read, and not made ahead; leave makers or kept out")
    path, team, base = out / PAINT_CHECKPOINT, Team.join(model.device, shards), fingerprint(model)
    if path.exists() != resume:
        told = (
            "has a run to go on from: resume it, or name another" if path.exists() else "has no run to resume: name its"
        )
        raise ValueError(f"{out} {told} folder")
    own = what_learns(model, training.train_tower)
    with team.spread(model, team.cut(model, own)) as learning:
        learner = PaintLearner(learning, training, team, base)
        if resume:
            learner.restore(torch.load(path, map_location="cpu", weights_only=True), str(out))
        rows: PaintRows | KeptRows = PaintRows(source, training.seed, size, model.config.image.size, learner.rows)
        if training.kept:
            files = keep_rows(
                model,
                source,
                out / ROWS_FOLDER,
                count=training.kept,
                seed=training.seed,
                size=size,
                team=team,
                progress=progress and team.leads,
            )
            rows = KeptRows(files, training.kept, training.seed, learner.rows)
        losses: list[float] = []

        def note(loss: float) -> None:
            losses.append(loss)
            if on_step:
                on_step(learner.done, loss)

        _run(learner, rows, path, save_every, makers, progress and team.leads, note)
        learner.bring_home(own)
    if team.leads:
        model.unet.gradient_checkpointing = False
        save(model, out / PAINTER_FILE)
    return Painted(learner.done, losses)


def _run(
    learner: PaintLearner,
    rows: PaintRows | KeptRows,
    path: Path,
    save_every: int,
    makers: int,
    progress: bool,
    note: Callable[[float], None],
) -> None:
    """Step until done, keeping checkpoints. note: told the loss of each step."""
    team, steps, recent = learner.team, learner.training.steps, deque[float](maxlen=AVERAGED)
    bar = tqdm(total=steps, initial=learner.done, desc="training", disable=not progress)
    try:
        with bar, warnings.catch_warnings(), deferring_ctrl_c(team.count > 1) as interrupted:
            for examples in _ahead(rows, range(learner.done, steps), makers):
                recent.append(learner.step(examples))
                bar.set_postfix(loss=f"{np.mean(recent):.4f}", refresh=False)
                bar.update()
                note(recent[-1])
                if learner.done % save_every == 0 and learner.done < steps:
                    _keep(learner, path)
                if team.any(interrupted(), learner.model.device):
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if learner.between_steps:
            _keep(learner, path)
        raise
    _keep(learner, path)


def _ahead(rows: PaintRows | KeptRows, steps: range, makers: int) -> Iterator[Sequence[PaintRow]]:
    """The rows of every step in order, made by other processes while this one learns."""
    if not makers:
        yield from (rows[step] for step in steps)
        return
    yield from DataLoader(
        rows,
        batch_size=None,
        sampler=steps,
        num_workers=makers,
        prefetch_factor=4,
        multiprocessing_context="spawn",
        worker_init_fn=_without_ctrl_c,
    )


def _without_ctrl_c(_: int) -> None:
    """A maker leaves Ctrl-C to the process that learns, which still wants its rows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _keep(learner: PaintLearner, path: Path) -> None:
    team = learner.team
    state = learner.state() if team.leads or team.shards else {}  # pieces come together from all processes
    if team.leads:
        with atomic(path) as place:
            torch.save(state, place)
