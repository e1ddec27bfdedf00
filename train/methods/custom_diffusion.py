"""Custom Diffusion: keys and values of the cross-attention learn, and a new word (arXiv:2212.04488, section 3.1).

Of all weights these move most when a whole model is fine-tuned (figure 2), and they are what turns words into pictures.
The word, placed before the class, begins as a token that hardly occurs. As in the authors' code, which the paper does
not say, keys and values of the start token take no gradient: every prompt has it, so what it says must stay. Their code
has a second mode, in which the queries and outputs of these layers learn too.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from models.hooks import Hook
from models.stable_diffusion import StableDiffusion
from train.concepts import Concept, replaced, save_delta
from train.concepts.delta_file import TRAINED
from train.config import CustomDiffusionConfig
from train.data import Examples, Together
from train.encoded import Encoded
from train.methods.method import Group, LearningMethod, Placed, borrowed, on_cpu, weights_of
from train.methods.words import PREFIX, learning_words, start_rows
from train.zoomed import Zoomed

KEYS_VALUES = re.compile(r"unet\..+\.attn2\.to_[kv]\.weight")


class CustomDiffusion(LearningMethod[CustomDiffusionConfig]):
    """Keys and values of the cross-attention learn, or all of it, and a row for the word of every subject."""

    file = "delta.bin"

    def shapes(self, model: StableDiffusion, config: CustomDiffusionConfig) -> dict[str, tuple[int, ...]]:
        learning = _learning(model, config) | {f"{PREFIX}{word}": row for word, row in _starts(model, config).items()}
        return {name: tuple(tensor.shape) for name, tensor in learning.items()}

    @contextmanager
    def placed(self, model: StableDiffusion, config: CustomDiffusionConfig) -> Iterator[Placed]:
        weights = _learning(model, config)
        hook = Hook(qkv=start_detached)
        with borrowed(weights), learning_words(model, _starts(model, config)) as rows:
            yield Placed(
                (Group(config.rate(), {**weights, **rows}),),
                text_learns=True,
                changes=lambda: replaced({name: on_cpu(weight) for name, weight in weights.items()}),
                words=lambda: {name.removeprefix(PREFIX): on_cpu(row) for name, row in rows.items()},
                hooks={site: hook for site in model.unet.sites if site.kind == "cross"},
            )

    def save(self, concept: Concept, path: Path, model: StableDiffusion, dtype: torch.dtype) -> None:
        save_delta(concept, path, model, dtype=dtype)

    def examples(
        self,
        model: StableDiffusion,
        config: CustomDiffusionConfig,
        size: int,
        subjects: Sequence[list[Image.Image]],
        masks: Sequence[Image.Image] | None = None,
        encoded: Encoded | None = None,
    ) -> Examples:
        """The references of every subject, each under its own prompts."""
        if not config.zoom:
            return super().examples(model, config, size, subjects, masks, encoded)
        return Together(
            [Zoomed(model, pictures, size, config.sample_latents, config.resampling) for pictures in subjects],
            len(config.instance_texts) // len(subjects),
        )

    def subject(self, config: CustomDiffusionConfig) -> tuple[str, str]:
        """All of them, one after another: "<new1> cat and <new2>" and "dog"."""
        subjects = [(config.token, config.class_word), *((one.token, one.class_word) for one in config.also)]
        *others, (token, class_word) = subjects
        return " and ".join([*(" ".join(other) for other in others), token]), class_word


def start_detached(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (b h m d), no gradient through the first token's keys and values."""
    k, v = (torch.cat([one[:, :, :1].detach(), one[:, :, 1:]], dim=2) for one in (k, v))
    return q, k, v


def _learning(model: StableDiffusion, config: CustomDiffusionConfig) -> dict[str, nn.Parameter]:
    names = TRAINED if config.whole_attention else KEYS_VALUES
    return {name: weight for name, weight in weights_of(model, "unet").items() if names.fullmatch(name)}


def _starts(model: StableDiffusion, config: CustomDiffusionConfig) -> dict[str, Tensor]:
    """What every subject's word begins with."""
    words = {config.token: config.init_word, **{one.token: one.init_word for one in config.also}}
    return {token: start_rows(model, init_word, 1) for token, init_word in words.items()}
