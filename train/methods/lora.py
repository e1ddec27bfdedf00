"""LoRA: thin matrices learn beside frozen layers (arXiv:2106.09685, section 4.1).

A layer W x becomes W x + alpha / rank x up (down x), with down (rank i) drawn small and up (o rank) zero, so that at
first nothing is changed. In diffusion models the layers are those of the transformers. Merged into W the result is the
same within rounding, and the file holds up and down alone.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.stable_diffusion import StableDiffusion
from train.concepts import Concept, LowRank, save_lora
from train.concepts.module_names import adapted
from train.config import LoRAConfig
from train.methods.method import Group, LearningMethod, Placed, on_cpu, weights_of

PROJECTION = re.compile(r".+\.attn[12]?\.to_(?:q|k|v|out)\.weight")


class LoRA(LearningMethod[LoRAConfig]):
    """Two factors learn beside each of the layers."""

    file = "lora.safetensors"

    def shapes(self, model: StableDiffusion, config: LoRAConfig) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for name, weight in adapted_weights(model, config).items():
            outputs, inputs = weight.shape
            if config.rank > min(outputs, inputs):
                raise ValueError(
                    f"rank is {config.rank}, and {name} is {outputs} x {inputs}: a change of full rank there needs no "
                    f"more than {min(outputs, inputs)}; take a lower rank"
                )
            found |= {f"{name}/up": (outputs, config.rank), f"{name}/down": (config.rank, inputs)}
        return found

    @contextmanager
    def placed(self, model: StableDiffusion, config: LoRAConfig) -> Iterator[Placed]:
        generator = torch.Generator().manual_seed(config.seed)
        factors = {name: _factors(w, config.rank, generator) for name, w in adapted_weights(model, config).items()}
        alpha = config.rank if config.alpha is None else config.alpha
        rates = {"unet": config.rate(), "text": config.rate(config.text_learning_rate)}
        groups = [
            Group(rate, {f"{n}/{side}": p for n, pair in factors.items() if n.startswith(part) for side, p in pair})
            for part, rate in rates.items()
        ]
        with ExitStack() as stack:
            for name, ((_, up), (_, down)) in factors.items():
                handle = _layer(model, name).register_forward_hook(_adding(up, down, alpha / config.rank))
                stack.callback(handle.remove)
            yield Placed(
                tuple(group for group in groups if group.parameters),
                text_learns=config.train_text_encoder,
                changes=lambda: {
                    name: LowRank(on_cpu(up), on_cpu(down), float(alpha))
                    for name, ((_, up), (_, down)) in factors.items()
                },
            )

    def save(self, concept: Concept, path: Path, model: StableDiffusion, dtype: torch.dtype) -> None:
        save_lora(concept, path, model.config, dtype)


def adapted_weights(model: StableDiffusion, config: LoRAConfig) -> dict[str, nn.Parameter]:
    """The frozen weights (o i) beside which factors learn, by name."""
    there = weights_of(model, "unet", "text") if config.train_text_encoder else weights_of(model, "unet")
    names = (name for name in adapted(model.config) if name in there)
    return {n: there[n] for n in names if config.layers == "linear" or PROJECTION.fullmatch(n)}


Factors = tuple[tuple[str, nn.Parameter], tuple[str, nn.Parameter]]


def _factors(weight: Tensor, rank: int, generator: torch.Generator) -> Factors:
    """up, all zero, and down, drawn as a linear layer's weights are in kohya's tools and in PEFT: uniform, as wide as
    Kaiming's rule with a slope of sqrt(5) says, which is 1 / sqrt(inputs)."""
    outputs, inputs = weight.shape
    down = (2 * torch.rand(rank, inputs, generator=generator) - 1) / math.sqrt(inputs)
    up = torch.zeros(outputs, rank, device=weight.device, dtype=weight.dtype)
    return ("up", nn.Parameter(up)), ("down", nn.Parameter(down.to(weight)))


def _adding(up: Tensor, down: Tensor, scale: float) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    def add(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(inputs[0], down), up) * scale

    return add


def _layer(model: StableDiffusion, parameter: str) -> nn.Module:
    """The layer that a weight belongs to."""
    part, _, name = parameter.partition(".")
    network = model.unet if part == "unet" else model.text_encoder
    return network.get_submodule(name.removesuffix(".weight"))
