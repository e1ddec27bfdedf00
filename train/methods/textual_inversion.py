"""Textual Inversion: a new word, and only what it means learns (arXiv:2208.01618, section 4.1, eq. 2).

The row of the token embedding that the word stands for is fitted to the references by the model's own loss, under
prompts that say no more than that they show it; U-Net and text encoder stay as they are. The file is a few kilobytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from models.stable_diffusion import StableDiffusion
from train.concepts import Concept, save_embeds
from train.config import TextualInversionConfig
from train.methods.method import Group, LearningMethod, Placed, on_cpu
from train.methods.words import PREFIX, learning_words, start_rows


class TextualInversion(LearningMethod[TextualInversionConfig]):
    """The rows of one word learn."""

    file = "learned_embeds.safetensors"

    def shapes(self, model: StableDiffusion, config: TextualInversionConfig) -> dict[str, tuple[int, ...]]:
        return {f"{PREFIX}{config.token}": tuple(_start(model, config).shape)}

    @contextmanager
    def placed(self, model: StableDiffusion, config: TextualInversionConfig) -> Iterator[Placed]:
        with learning_words(model, {config.token: _start(model, config)}) as rows:
            yield Placed(
                (Group(config.rate(), rows),),
                text_learns=True,
                words=lambda: {name.removeprefix(PREFIX): on_cpu(row) for name, row in rows.items()},
            )

    def save(self, concept: Concept, path: Path, model: StableDiffusion, dtype: torch.dtype) -> None:
        save_embeds(concept, path, dtype)

    def subject(self, config: TextualInversionConfig) -> tuple[str, str]:
        """The word alone: it stands for the thing, class and all."""
        return config.token, ""


def _start(model: StableDiffusion, config: TextualInversionConfig) -> torch.Tensor:
    return start_rows(model, config.init_word or config.class_word, config.tokens_per_word)
