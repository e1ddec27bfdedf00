"""A model ready to learn, and afterwards as if it never had."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.stable_diffusion import StableDiffusion
from train.config import LearnConfig
from train.methods import Placed, method_of
from weights.load import networks_of


@contextmanager
def ready_to_learn(model: StableDiffusion, config: LearnConfig) -> Iterator[Placed]:
    """The model with what learns in place and all else frozen; afterwards bit for bit as it was, flags included."""
    flags = [(p, p.requires_grad) for net in networks_of(model).values() for p in net.parameters()]
    checkpointing = [(net, net.gradient_checkpointing) for net in (model.unet, model.text_encoder)]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for net, _ in checkpointing:
            net.gradient_checkpointing = bool(config.gradient_checkpointing)
        with method_of(config).placed(model, config) as placed:
            yield placed
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        for net, was in checkpointing:
            net.gradient_checkpointing = was
