"""What the loop asks of a way of learning: which parameters learn, and what is made of them.

The loop, the pictures, the noise, resuming, samples and checkpoints are the same for all; a method is one page.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from models.hooks import Hooks
from models.stable_diffusion import StableDiffusion
from train.concepts import Change, Concept
from train.config import LearnConfig
from train.data import CentreCrops, Examples, RandomCrops, Templated, Together
from train.encoded import Encoded
from train.sharding import is_piece, put_together
from weights.load import networks_of
from weights.names import NetworkName

Numbers = TypeVar("Numbers", bound=LearnConfig)


@dataclass(frozen=True)
class Group:
    """Parameters that learn at one rate, by the names that a checkpoint has for them."""

    rate: float
    parameters: Mapping[str, nn.Parameter]


@dataclass(frozen=True, eq=False)
class Placed:
    """What a method has put in place in a model.

    groups: all that learns; nothing else in the model wants a gradient. text_learns: whether what a prompt means
    changes from step to step. changes, words: what has been learnt so far, as a Concept has it, on the CPU. hooks: of
    the U-Net while it learns.
    """

    groups: tuple[Group, ...]
    text_learns: bool
    changes: Callable[[], dict[str, Change]] = dict
    words: Callable[[], dict[str, Tensor]] = dict
    hooks: Hooks = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that learns, by name."""
        return {name: parameter for group in self.groups for name, parameter in group.parameters.items()}


class LearningMethod(ABC, Generic[Numbers]):
    """One way of learning a concept. Each is a page of this folder.

    file: the name of the file that its concept is written as.
    """

    file: ClassVar[str]

    @abstractmethod
    def shapes(self, model: StableDiffusion, config: Numbers) -> dict[str, tuple[int, ...]]:
        """The shape of everything that will learn, by name; nothing is put in place for it.

        Raises ValueError where this model cannot be taught so.
        """

    @abstractmethod
    def placed(self, model: StableDiffusion, config: Numbers) -> AbstractContextManager[Placed]:
        """The model with what learns in place; afterwards it is bit for bit as it was.

        Everything in the model is frozen on entry, and thawed by whoever froze it.
        """

    @abstractmethod
    def save(self, concept: Concept, path: Path, model: StableDiffusion, dtype: torch.dtype) -> None:
        """Write what was learnt, complete or not at all. model: the base."""

    def examples(
        self,
        model: StableDiffusion,
        config: Numbers,
        size: int,
        subjects: Sequence[list[Image.Image]],
        masks: Sequence[Image.Image] | None = None,
        encoded: Encoded | None = None,
    ) -> Examples:
        """The references as they are shown, of every subject; those to be shown mirrored too are among them.

        masks: of each picture, where there is one subject. encoded: what need not be encoded again.
        """
        crops, texts = RandomCrops if config.random_crop else CentreCrops, len(config.instance_texts) // len(subjects)
        shown = [crops(model, one, size, config.sample_latents, config.resampling, masks, encoded) for one in subjects]
        return Together([Templated(one, texts) for one in shown], texts)

    def subject(self, config: Numbers) -> tuple[str, str]:
        """The word and the class that prompts will call the subject by."""
        return config.token, config.class_word


def weights_of(model: StableDiffusion, *parts: NetworkName) -> dict[str, nn.Parameter]:
    """The parameters of some of the networks, "part.name"."""
    networks = networks_of(model)
    return {f"{part}.{name}": p for part in parts for name, p in networks[part].named_parameters()}


@contextmanager
def borrowed(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Parameters of the model that learn; afterwards their values are again what they were."""
    own = {name: parameter for name, parameter in parameters.items() if not is_piece(parameter)}  # others are a twin's
    kept = {name: parameter.detach().to("cpu", copy=True) for name, parameter in own.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(kept[name])


def on_cpu(tensor: Tensor) -> Tensor:
    """A copy that learning no longer changes; of what is in pieces, the whole, which all processes ask for together."""
    return put_together(tensor) if is_piece(tensor) else tensor.detach().to("cpu", copy=True)
