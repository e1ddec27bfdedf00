"""The model, with the concepts that are asked for: one copy in memory at a time."""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from photoswap.commands import arguments as types
from photoswap.commands.common import guidance_for, load_model
from photoswap.commands.learn import configure

from .forms import parsed

if TYPE_CHECKING:
    from models.stable_diffusion import StableDiffusion
    from models.unet import UNet


class Shelf:
    """The model that the page was started with, as `photoswap swap` would load it.

    arguments: the page's own, with --model, --dtype and --device. Only the desk's worker may ask for a model; what is
    known of it without one, its name, sites and sizes, anybody may.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self._key: object = None
        self._model: StableDiffusion | None = None
        model = self.model()
        self.name, self.native_size, self.factor = model.config.name, model.config.native_size, model.config.vae.factor
        self.guidance = guidance_for(model, None)
        self._unet_config = model.config.unet
        self._bare: UNet | None = None

    def model(self, concept: str | None = None, dtype: str | None = None) -> "StableDiffusion":
        """The model with a concept in it, FILE or FILE:SCALE, in the page's dtype or another."""
        found = [types.scaled_file(concept)] if concept else []
        key = (dtype or self.arguments.dtype or "float32", [(str(one), _state(one.path)) for one in found])
        if self._model is None or key != self._key:
            self._model = None  # so that there is room for the next
            self._model = load_model(_with_concepts(self.arguments, found), dtype)
            self._key = key
        return self._model

    def learning_steps(self, method: str = "dreambooth") -> int:
        """How many steps `photoswap learn` takes with this model unless told otherwise."""
        dtype = "bfloat16" if self.arguments.dtype == "bfloat16" else "float32"
        asked = parsed(["learn", "x", "--class", "x", "--method", method, "--dtype", dtype])
        return int(configure(asked, self.name).steps)

    @property
    def unet(self) -> "UNet":
        """The network without weights, for its sites."""
        if self._bare is None:
            import torch

            from models.unet import UNet

            with torch.device("meta"):
                self._bare = UNet(self._unet_config)
        return self._bare


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file is written anew."""
    found = path.stat() if path.is_file() else None
    return (found.st_mtime_ns, found.st_size) if found else (0, 0)


def _with_concepts(arguments: argparse.Namespace, found: "Sequence[types.ScaledFile]") -> argparse.Namespace:
    asked = copy.copy(arguments)
    asked.concept = [*found]
    return asked
