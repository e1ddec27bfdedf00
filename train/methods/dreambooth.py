"""DreamBooth: a few pictures of a subject, and a rare token comes to mean it.

arXiv:2208.12242, sections 3.2 and 3.3, as Photoswap uses it (arXiv:2305.18286, section 3.2): all of the U-Net learns to
denoise the references under a prompt with the token, and with it the text encoder, beside pictures of the class under
its plain prompt. What is learnt is the networks themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from models.stable_diffusion import StableDiffusion
from train.concepts import Concept, replaced, save_concept
from train.config import DreamBoothConfig
from train.methods.method import Group, LearningMethod, Placed, borrowed, on_cpu, weights_of


class DreamBooth(LearningMethod[DreamBoothConfig]):
    """The networks learn, at a rate each."""

    file = "concept.safetensors"

    def shapes(self, model: StableDiffusion, config: DreamBoothConfig) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in _learning(model, config).items()}

    @contextmanager
    def placed(self, model: StableDiffusion, config: DreamBoothConfig) -> Iterator[Placed]:
        parameters = _learning(model, config)
        rates = {"unet": config.rate(), "text": config.rate(config.text_learning_rate)}
        groups = [
            Group(rates[part], {n: p for n, p in parameters.items() if n.startswith(f"{part}.")})
            for part in ("unet", "text")
        ]
        with borrowed(parameters):
            yield Placed(
                tuple(group for group in groups if group.parameters),
                text_learns=config.train_text_encoder,
                changes=lambda: replaced({name: on_cpu(p) for name, p in parameters.items()}),
            )

    def save(self, concept: Concept, path: Path, model: StableDiffusion, dtype: torch.dtype) -> None:
        save_concept(concept, path, dtype)


def _learning(model: StableDiffusion, config: DreamBoothConfig) -> dict[str, nn.Parameter]:
    return weights_of(model, "unet", "text") if config.train_text_encoder else weights_of(model, "unet")
