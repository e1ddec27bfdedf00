"""One step of learning a concept, and everything that changes with it (DreamBooth, arXiv:2208.12242, eq. 2).

Rows are drawn and noised; their prompts become context; one call of the U-Net for the instance and class rows together;
the loss; AdamW. Which parameters move is the method's to say (train/methods).
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from models.hooks import merge
from models.stable_diffusion import StableDiffusion
from models.tokenizer import subject_tokens
from train.ahead import Ahead
from train.break_a_scene import attention_error, map_readers, outline_sites
from train.config import LearnConfig
from train.data import Rows, Stream, check_stream
from train.encoded import Encoded
from train.lanes import Lanes, cut_in_two, lanes_pay
from train.loss import dreambooth_loss, min_snr_weights, squared_error
from train.methods import Placed
from train.parallel import ALONE, Team
from train.ranges import Moments
from train.rates import Rates
from train.run_file import fill
from train.sharding import placed_as, put_together
from train.small_moments import SmallMomentsAdamW, small_moment_shapes
from train.token_first import TokenFirst, moved
from weights.records import listed, quoted


class Learner:
    """What changes while a concept is learnt: what the method put in place, optimizer, streams of rows, step reached.

    model: float32 (or float64), with what learns in place. instances, classes: rows of the references and of the class,
    None to learn without. team: the processes that learn together; the configuration's batch is that of all, and so are
    the rows drawn and the losses told. encoded: what need not be encoded again. `state` and `restore` lose no bit.
    """

    def __init__(
        self,
        model: StableDiffusion,
        config: LearnConfig,
        placed: Placed,
        instances: Stream,
        classes: Stream | None,
        team: Team = ALONE,
        encoded: Encoded | None = None,
    ) -> None:
        self.model, self.config, self.placed = model, config, placed
        self.instances, self.classes, self.team, self.encoded = instances, classes, team, encoded
        streams = {"instances": instances} | ({"classes": classes} if classes is not None else {})
        self.ahead = Ahead(streams, self._drawn, model.device)
        self.batch = config.batch // team.count
        self.done = 0
        self.between_steps = True  # within a step, state would be half old and half new
        self.parameters = placed.parameters
        self.optimizer = _optimizer(placed, config, fused=model.device.type in ("cpu", "cuda"))
        self.token_first = TokenFirst(model, config, self.parameters, self.optimizer, self.batch)
        self.rates = Rates(self.optimizer, config, self.token_first.steps)
        self.lanes = Lanes() if lanes_pay(model, config, team.count) else None
        self.averaged_loss = team.averaging(self.parameters.values(), self.loss)
        prompts = [*config.instance_texts, *(config.class_texts if classes is not None else ())]
        self.tokens = model.tokenizer(prompts).to(model.device)
        self.words: list[list[int]] = []  # by prompt, the columns of the token
        if config.attention_loss:
            self.words = [subject_tokens(model.tokenizer, text, config.token) for text in config.instance_texts]
        self.frozen_context: Tensor | None = None
        if not placed.text_learns:
            shape, kind = (*self.tokens.shape, model.config.text.width), f"prompts in {model.dtype}"
            if encoded is None:
                self.frozen_context = self._encode_prompts()
            else:
                states = encoded.of(kind, [self.tokens.cpu()], shape, self._encode_prompts)
                self.frozen_context = states.to(model.device)

    @torch.no_grad()
    def _encode_prompts(self) -> Tensor:
        states: Tensor = self.model.text_encoder(self.tokens)
        return states

    def step(self) -> float:
        """One step of the optimizer. Returns the loss, averaged over accumulated batches.

        Raises ValueError when the loss is no finite number; the weights are then those before the step.
        """
        self.between_steps = False
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        for i in range(self.config.accumulate):
            last = i == self.config.accumulate - 1
            with nullcontext() if last else self.team.apart(self.averaged_loss):
                losses.append(self._backward(self.token_first.rows_for(self.next_rows(), self.done)))
            if not (last and self.done + 1 >= self.config.steps):
                self.ahead.prepare()  # the device is still computing: nobody has asked for the loss
        total = self.team.mean(math.fsum(loss.item() for loss in losses), self.model.device)
        if not total < float("inf"):
            raise ValueError(f"the loss is {total} at step {self.done + 1}; lower the learning rate and start again")
        self.token_first.hold(self.done)
        self.rates.set(self.done)
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        self.optimizer.step()
        self.done += 1
        self.token_first.stepped(self.done)
        self.between_steps = True
        return total

    def _backward(self, rows: Rows) -> Tensor:
        """Add the gradients of some rows to those there are; their share of the step's loss."""
        inputs = self.token_first.alone(self.done) if self.team.count == 1 else None
        if self.lanes is not None:
            pieces = cut_in_two(rows, self.batch, self.config.prior_weight)
            return self.lanes.backward([partial(self._piece, *piece) for piece in pieces], inputs)
        loss = self.averaged_loss(rows) / self.config.accumulate
        loss.backward(inputs=inputs)
        return loss.detach()

    def _piece(self, rows: Rows, weight: float) -> Tensor:
        return weight * self.errors(rows).mean()

    def next_rows(self) -> Rows:
        """The next rows here: of the subject, then as many of the class, whose prompts come after the subject's."""
        return self.ahead.take()

    def _drawn(self) -> Rows:
        rows = self.team.share(self.instances.next_rows(self.config.batch))
        if self.classes is None:
            return rows
        classes = self.team.share(self.classes.next_rows(self.config.batch))
        return rows.join(classes._replace(text=classes.text + len(self.config.instance_texts)))

    def loss(self, rows: Rows) -> Tensor:
        """The loss of some rows, a scalar: their output's error, row by row, weighed and averaged."""
        config = self.config
        maps: list[Tensor] = []
        errors = self.errors(rows, maps if config.attention_loss else None)
        loss = dreambooth_loss(errors, self.batch, config.prior_weight)
        if config.attention_loss:
            words = [self.words[text] for text in rows.text[: self.batch].tolist()]
            loss = loss + config.attention_loss * attention_error(maps, words, rows.subject[: self.batch]).mean()
        return loss

    def errors(self, rows: Rows, maps: list[Tensor] | None = None) -> Tensor:
        """The error of each row, (b,), weighed by its timestep if the configuration says so. maps: as of `output`."""
        schedule, config = self.model.schedule, self.config
        target = schedule.target(rows.x0.to(self.model.device), rows.eps.to(self.model.device), rows.t)
        output = self.output(rows, maps)
        if config.mask_loss:
            output, target = (tensor * rows.subject.to(tensor) for tensor in (output, target))
        errors = squared_error(output, target, None if rows.mask.all() else rows.mask)
        if config.min_snr is not None:
            errors = errors * min_snr_weights(schedule, rows.t, config.min_snr).to(errors)
        return errors

    def output(self, rows: Rows, maps: list[Tensor] | None = None) -> Tensor:
        """What the U-Net makes of the noised rows, (b c h w). maps: receives the subject rows' A where it outlines."""
        model = self.model
        x0, eps = rows.x0.to(model.device), rows.eps.to(model.device)
        noisy = model.schedule.add_noise(x0, eps, rows.t).to(model.dtype)
        return self.predicted(noisy, rows.t.to(model.device), rows.text.tolist(), maps)

    def predicted(
        self, noisy: Tensor, t: int | Tensor, texts: Sequence[int], maps: list[Tensor] | None = None
    ) -> Tensor:
        """As `output`, of latents that are noised already; texts: of each row, the index of its prompt."""
        model, hooks = self.model, self.placed.hooks
        if maps is not None:
            sites = outline_sites(model.unet, *noisy.shape[2:])
            hooks = merge(hooks, map_readers(sites, maps, self.batch))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            return model.unet(noisy, t, self.context(texts), hooks=hooks)

    def context(self, texts: Sequence[int]) -> Tensor:
        """The context (b 77 width) of b rows by the indices of their prompts; each prompt is encoded once."""
        runs = [(text, len(list(run))) for text, run in groupby(texts)]
        used = sorted({text for text, _ in runs})
        known = self.frozen_context
        states = self.model.text_encoder(self.tokens[used]) if known is None else known[used]
        rows = [(used.index(text), length) for text, length in runs]
        return torch.cat([states[place : place + 1].expand(length, -1, -1) for place, length in rows])

    def state(self) -> dict[str, Tensor]:
        """All it takes to go on later: what learns, the optimizer's moments, the streams' generators and queues.

        Of processes that hold pieces all ask for it together, and the first alone gets the numbers.
        """
        moments, names = self.optimizer.state_dict()["state"], list(self.parameters)
        kept = {f"adamw.{names[i]}.{key}": value for i, own in moments.items() for key, value in own.items()}
        found = {name: put_together(t, self.team.leads) for name, t in {**self.parameters, **kept}.items()}
        return {**found, **self.ahead.state()}

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """Go on from what `state` gave after `done` steps, once `check_state` has found nothing amiss."""
        fill(self.parameters, {name: placed_as(state[name], place) for name, place in self.parameters.items()})
        begun, _ = moved(list(self.parameters), done, self.token_first.steps)  # the others have no moments yet
        places = {name: i for i, name in enumerate(self.parameters)}
        moments = {name: self._moments_of(name, state) for name in begun}
        if isinstance(self.optimizer, SmallMomentsAdamW):
            for name, own in moments.items():
                self.optimizer.go_on(self.parameters[name], own)
        else:
            by_place = {places[name]: own for name, own in moments.items()}
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": by_place})
        self.ahead.restore(state)
        self.done = done

    def _moments_of(self, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        place = self.parameters[name]
        kept = {key: state[f"adamw.{name}.{key}"] for key in moment_shapes(self.config.moments, tuple(place.shape))}
        return {key: value if key == "step" else placed_as(value, place) for key, value in kept.items()}


def _optimizer(placed: Placed, config: LearnConfig, fused: bool) -> torch.optim.AdamW | SmallMomentsAdamW:
    groups = [{"params": list(group.parameters.values()), "lr": group.rate} for group in placed.groups]
    given: dict[str, Any] = {"betas": config.betas, "eps": config.epsilon, "weight_decay": config.weight_decay}
    small = config.moments == "8bit"
    return SmallMomentsAdamW(groups, **given) if small else torch.optim.AdamW(groups, **given, fused=fused)


def moment_shapes(moments: Moments, shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], bool]]:
    """What AdamW has of a parameter of that shape: the shape of each tensor, and whether it is of whole numbers."""
    if moments == "8bit":
        return {key: (own, dtype == torch.uint8) for key, (own, dtype) in small_moment_shapes(shape).items()}
    return {"step": ((), False), "exp_avg": (shape, False), "exp_avg_sq": (shape, False)}


def check_state(
    shapes: Mapping[str, tuple[int, ...]],
    state: Mapping[str, Tensor],
    done: int,
    pictures: Mapping[str, int],
    first: int = 0,
    moments: Moments = "float32",
) -> None:
    """Raise ValueError unless a `Learner` of parameters of these shapes may have given this state after `done` steps.

    pictures: how many there are of the "instances", mirrored ones included, and of the "classes", if any.
    first: how many of the steps teach the token alone. moments: what the optimizer keeps them in.
    """
    wanted = {name: (shape, False) for name, shape in shapes.items()}
    begun, steps = moved(list(shapes), done, first)
    for name in begun:
        wanted |= {f"adamw.{name}.{key}": own for key, own in moment_shapes(moments, shapes[name]).items()}
    known = [*wanted, *(f"{kind}.{key}" for kind in pictures for key in ("generator", "queue"))]
    if lacking := [name for name in known if name not in state]:
        raise ValueError(f"the tensor {listed(lacking)} is missing")
    if strange := [name for name in state if name not in known]:
        raise ValueError(f"it holds {listed(strange)}, which this run does not have")
    for name, (shape, whole) in wanted.items():
        if state[name].shape != shape or (state[name].dtype == torch.uint8) != whole:
            raise ValueError(
                f"the tensor {quoted(name)} is {tuple(state[name].shape)} in {state[name].dtype}; want {shape}, "
                f"{'in uint8' if whole else 'in floating point'}"
            )
    if any(state[f"adamw.{name}.step"].item() != steps for name in begun):
        raise ValueError(f"the optimizer has made other steps than the {done} it is said to have made")
    for kind, count in pictures.items():
        check_stream({key: state[f"{kind}.{key}"] for key in ("generator", "queue")}, count)
