"""One step of DreamBooth, and everything that changes with it (arXiv:2208.12242, eq. 2).

Draw rows, noise them, one call of the U-Net for the instance and class rows together, AdamW.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.stable_diffusion import StableDiffusion
from train.config import DreamBoothConfig
from train.data import Stream, check_stream
from train.loss import dreambooth_loss, min_snr_weights, squared_error
from train.run_file import copy_into
from weights.load import networks_of
from weights.names import NetworkName
from weights.records import listed, quoted

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW, for each parameter


def learning_networks(model: StableDiffusion, config: DreamBoothConfig) -> dict[NetworkName, nn.Module]:
    """The networks that learn, by the first part of their tensors' names."""
    parts: tuple[NetworkName, ...] = ("unet", "text") if config.train_text_encoder else ("unet",)
    return {part: networks_of(model)[part] for part in parts}


class Learner:
    """What changes while a concept is learnt: weights, optimizer, streams of rows, and the step reached.

    model: float32 (or float64), its learning networks requiring gradients; trained in place. instances, classes: rows
    of the references and of the class, None to learn without. `state` and `restore` lose no bit.
    """

    def __init__(
        self, model: StableDiffusion, config: DreamBoothConfig, instances: Stream, classes: Stream | None
    ) -> None:
        self.model, self.config, self.instances, self.classes = model, config, instances, classes
        self.networks = learning_networks(model, config)
        self.done = 0
        self.between_steps = True  # within a step, state would be half old and half new
        rates = {"unet": config.learning_rate, "text": config.text_learning_rate or config.learning_rate}
        self.names = [
            f"{network}.{name}" for network, net in self.networks.items() for name, _ in net.named_parameters()
        ]
        self.optimizer = torch.optim.AdamW(
            [{"params": list(net.parameters()), "lr": rates[network]} for network, net in self.networks.items()],
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=model.device.type in ("cpu", "cuda"),
        )
        prompts = [config.instance_text] + [config.class_text] * (classes is not None)
        self.tokens = model.tokenizer(prompts).to(model.device)
        self.frozen_context: Tensor | None = None
        if not config.train_text_encoder:
            with torch.no_grad():
                self.frozen_context = model.text_encoder(self.tokens)

    def step(self) -> float:
        """One step of the optimizer. Returns the loss, averaged over accumulated batches.

        Raises ValueError when the loss is no finite number; the weights are then those before the step.
        """
        self.between_steps = False
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(self.config.accumulate):
            loss = self._loss() / self.config.accumulate
            loss.backward()
            total += loss.item()
        if not total < float("inf"):
            raise ValueError(f"the loss is {total} at step {self.done + 1}; lower the learning rate and start again")
        if self.config.clip:
            nn.utils.clip_grad_norm_(
                [p for group in self.optimizer.param_groups for p in group["params"]], self.config.clip
            )
        self.optimizer.step()
        self.done += 1
        self.between_steps = True
        return total

    def _loss(self) -> Tensor:
        """The loss of the next rows: `batch` of the subject, then as many of the class."""
        model, config = self.model, self.config
        rows = self.instances.next_rows(config.batch)
        if self.classes is not None:
            rows = rows.join(self.classes.next_rows(config.batch))
        x0, eps = rows.x0.to(model.device), rows.eps.to(model.device)
        noisy = model.schedule.add_noise(x0, eps, rows.t).to(model.dtype)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bfloat16):
            context = model.text_encoder(self.tokens) if self.frozen_context is None else self.frozen_context
            context = torch.cat([prompt.expand(config.batch, -1, -1) for prompt in context.split(1)])
            output = model.unet(noisy, rows.t.to(model.device), context)
        errors = squared_error(output, model.schedule.target(x0, eps, rows.t))
        if config.min_snr is not None:
            errors = errors * min_snr_weights(model.schedule, rows.t, config.min_snr).to(errors)
        return dreambooth_loss(errors, config.batch, config.prior_weight)

    def weights(self) -> dict[str, Tensor]:
        """The learning networks' tensors, "part.name"; the live ones, not copies."""
        return {
            f"{network}.{name}": t for network, net in self.networks.items() for name, t in net.state_dict().items()
        }

    def state(self) -> dict[str, Tensor]:
        """All it takes to go on later: weights, the optimizer's moments, the streams' generators and queues."""
        moments = self.optimizer.state_dict()["state"]
        return {
            **self.weights(),
            **{f"adamw.{self.names[i]}.{key}": value for i, kept in moments.items() for key, value in kept.items()},
            **{f"{kind}.{key}": value for kind, stream in self._streams() for key, value in stream.state().items()},
        }

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """Go on from what `state` gave after `done` steps, once `check_state` has found nothing amiss."""
        copy_into(self.networks, {n: tensor for n, tensor in state.items() if n.split(".")[0] in self.networks})
        begun = list(enumerate(self.names)) if done else []  # before the first step there are no moments
        moments = {i: {key: state[f"adamw.{name}.{key}"] for key in MOMENTS} for i, name in begun}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for kind, stream in self._streams():
            stream.restore({key: state[f"{kind}.{key}"] for key in ("generator", "queue")})
        self.done = done

    def _streams(self) -> list[tuple[str, Stream]]:
        streams = [("instances", self.instances), ("classes", self.classes)]
        return [(kind, stream) for kind, stream in streams if stream is not None]


def check_state(
    model: StableDiffusion, config: DreamBoothConfig, state: Mapping[str, Tensor], done: int, pictures: int
) -> None:
    """Raise ValueError unless this is a state that a `Learner` of this model and configuration gave after `done` steps.

    pictures: of the subject, mirrored ones included.
    """
    networks = learning_networks(model, config)
    shapes = {f"{n}.{name}": tuple(p.shape) for n, net in networks.items() for name, p in net.named_parameters()}
    wanted = dict(shapes)
    if done:
        for name, shape in shapes.items():
            wanted |= {f"adamw.{name}.{key}": () if key == "step" else shape for key in MOMENTS}
    kinds = {"instances": pictures, **({"classes": config.class_pictures} if config.prior_weight else {})}
    known = [*wanted, *(f"{kind}.{key}" for kind in kinds for key in ("generator", "queue"))]
    if lacking := [name for name in known if name not in state]:
        raise ValueError(f"the tensor {listed(lacking)} is missing")
    if strange := [name for name in state if name not in known]:
        raise ValueError(f"it holds {listed(strange)}, which this run does not have")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise ValueError(f"the tensor {quoted(name)} is {tuple(state[name].shape)}; want {shape}")
    if any(state[f"adamw.{name}.step"].item() != done for name in shapes if done):
        raise ValueError(f"the optimizer has made other steps than the {done} it is said to have made")
    for kind, count in kinds.items():
        check_stream({key: state[f"{kind}.{key}"] for key in ("generator", "queue")}, count)
