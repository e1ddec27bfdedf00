"""An inversion: the trajectory from a picture to its noise, and all that a swap must know of how it was made.

The schema (INVERSION_KIND) holds for a value in memory as for a file, so what is made can be written and read again.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.stable_diffusion import StableDiffusion
from photoswap.pictures import Guidance
from weights import mismatch
from weights.parsing import parse
from weights.records import FileKind, TensorRule, check_tensors, check_values, quoted, read, write

InversionName = Literal["direct", "null-text", "negative-prompt", "ddim", "edict", "belm", "seed", "none"]
# Those whose source row is given its stored latents, whatever the network says.
EXACT = ("direct", "edict", "belm", "seed", "none")
GUIDED = ("null-text", "edict", "belm", "seed")  # that were made under guidance


@dataclass(frozen=True)
class InversionRecord:
    """What an inversion's file says of its tensors; the fields are those of `Inversion`."""

    prompt: str
    method: InversionName
    guidance_scale: float | tuple[float, ...]
    model: str
    seed: int | None = None


# Latents are about 1 in size, and pictures far off the model's own stay below 100: a thousand is damage, not a picture.
INVERSION_KIND = FileKind(
    "inversion",
    InversionRecord,
    {
        "trajectory": TensorRule(("steps+1", "c", "h", "w"), (torch.float32, torch.float64), (-1e4, 1e4)),
        "null_contexts": TensorRule(("steps", "n", "width"), (torch.float32, torch.float64), (-1e5, 1e5), wanted=False),
        "source": TensorRule(("rows", "columns", 3), (torch.uint8,), wanted=False),
    },
    limits={
        "prompt": (0, 10_000),
        "guidance_scale": (-1000, 1000),
        "model": (1, 200),
        "seed": (-(2**63), 2**64 - 1),  # torch's own
    },
    sizes={
        "steps+1": (2, 1001),
        "steps": (1, 1000),
        "c": (1, 64),
        **dict.fromkeys(("h", "w", "n"), (1, 4096)),
        **dict.fromkeys(("width", "rows", "columns"), (1, 2**15)),
    },
    version=3,
    upgrade=lambda version, data: data,  # version 1 had another key, and 2 fewer methods; the settings are the same
    again="invert the picture again",
)


@dataclass(frozen=True, eq=False)
class Inversion:
    """A source ready to be swapped, as often as one likes.

    trajectory: (steps + 1 4 h w), clean latents first, noise last. null_contexts: (steps 77 c), noisiest first, for
    null-text and for it alone. source: the picture as it came, upright and RGB, None if there was none. guidance_scale:
    for which null contexts were fitted, or under which it was inverted or drawn; 1 for the others. One number, or one
    for each step; equal ones become one. model: the fingerprint of the model. seed: of a synthetic source. Raises
    ValueError for values out of range, NaN among them, and for parts that do not belong together.
    """

    trajectory: Tensor
    prompt: str
    method: InversionName
    guidance_scale: Guidance
    model: str
    source: Image.Image | None = None
    null_contexts: Tensor | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.source is not None and self.source.mode != "RGB":
            raise ValueError(f"the source is a picture of mode {self.source.mode}; want RGB: see models.upright")
        record = parse(InversionRecord, self._settings(), INVERSION_KIND.limits)
        tensors = self._tensors()
        check_tensors(INVERSION_KIND, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
        for name, tensor in tensors.items():
            check_values(name, tensor, INVERSION_KIND.tensors[name])
        if (self.null_contexts is not None) != (self.method == "null-text"):
            raise ValueError("null contexts belong to the method null-text, and to it alone")
        if self.null_contexts is not None and len(self.null_contexts) != self.steps:
            raise ValueError(f"there are {len(self.null_contexts)} null contexts for {self.steps} steps; want as many")
        object.__setattr__(self, "guidance_scale", normal_guidance(record.guidance_scale, self.steps))

    @property
    def steps(self) -> int:
        """Of the sampler."""
        return len(self.trajectory) - 1

    @property
    def returns_stored(self) -> bool:
        """Whether the source's row follows the stored trajectory rather than its own estimate of the noise."""
        return self.method in EXACT

    @property
    def made_under_guidance(self) -> bool:
        """Whether its guidance scale was a choice, to be kept unless another is asked for."""
        return self.method in GUIDED

    @property
    def uncond_prompt(self) -> str:
        """What guidance leads away from, where no null contexts were fitted."""
        return self.prompt if self.method == "negative-prompt" else ""

    def source_at(self, index: int) -> Tensor:
        """The stored latents after sampling step index, (1 4 h w); -1 gives the noise it all starts from."""
        return self.trajectory[self.steps - 1 - index][None]

    def check(
        self,
        model: StableDiffusion,
        steps: int,
        size: tuple[int, int] | None = None,
        guidance_scale: Guidance | None = None,
        prompt: str | None = None,
    ) -> None:
        """Raise ValueError unless this inversion fits the model, the steps and the size (width, height) worked on.

        guidance_scale: None if it does not matter; null contexts serve only the scale they were fitted for. prompt:
        what the source is sampled under, None if it does not matter. A ddim trajectory leads back to the picture only
        under the prompt it was made with, and null contexts were fitted beside that one: another is refused. Where the
        source is given its stored latents, its row ends at the picture under any prompt.
        """
        if steps != self.steps:
            raise ValueError(f"the inversion has {self.steps} steps, the swap {steps}: make them the same")
        self._check_shapes(model, size)
        if self.null_contexts is not None and guidance_scale is not None:
            wanted = normal_guidance(guidance_scale, steps)
            if wanted != self.guidance_scale:
                raise ValueError(
                    f"null-text was fitted for guidance {quoted(self.guidance_scale)}, the swap wants "
                    f"{quoted(wanted)}: invert anew"
                )
        if prompt is not None and prompt != self.prompt and not self.returns_stored:
            raise ValueError(
                f"the inversion by {self.method} was made with the prompt {quoted(self.prompt)}, the swap's source has "
                f"{quoted(prompt)}: use the same, or invert the picture again"
            )
        if told := mismatch(model, self.model):
            raise ValueError(
                f"the inversion was made with another model ({quoted(self.model)}), and {told}: invert the picture "
                "again with the model, and the concept, that will swap"
            )

    def _check_shapes(self, model: StableDiffusion, size: tuple[int, int] | None) -> None:
        config = model.config
        channels, h, w = self.trajectory.shape[1:]
        own = (w * config.vae.factor, h * config.vae.factor)
        if size is not None and tuple(size) != own:
            raise ValueError(f"the inversion is of {own[0]} x {own[1]} px, the swap of {size[0]} x {size[1]}")
        if channels != config.vae.latent_channels or any(side % config.granularity for side in own):
            raise ValueError(
                f"the inversion's latents are {(channels, h, w)}, which {config.name} does not have: invert the "
                "picture again with the model that will swap"
            )
        context = (config.text.length, config.text.width)
        if self.null_contexts is not None and self.null_contexts.shape[1:] != context:
            raise ValueError(
                f"the inversion's null contexts are {tuple(self.null_contexts.shape[1:])}, those of {config.name} are "
                f"{context}: invert the picture again with the model that will swap"
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, complete or not at all. Raises OSError."""
        write(path, INVERSION_KIND, self._tensors(), InversionRecord(**self._settings()))

    @classmethod
    def load(cls, path: str | Path) -> "Inversion":
        """Read what save wrote. Raises ValueError for a file that is missing, cut short, damaged or something else."""
        tensors, record = read(path, INVERSION_KIND)
        pixels = tensors.get("source")
        try:
            return cls(
                trajectory=tensors["trajectory"],
                null_contexts=tensors.get("null_contexts"),
                source=None if pixels is None else Image.fromarray(pixels.numpy()),
                **{f.name: getattr(record, f.name) for f in fields(record)},
            )
        except ValueError as error:
            raise INVERSION_KIND.damaged(path, error) from None

    def _settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(InversionRecord)}

    def _tensors(self) -> dict[str, Tensor]:
        held = {"trajectory": self.trajectory}
        if self.null_contexts is not None:
            held["null_contexts"] = self.null_contexts
        if self.source is not None:
            held["source"] = torch.from_numpy(np.array(self.source))
        return held


def normal_guidance(scale: float | list[float] | Guidance, steps: int) -> Guidance:
    """One number, or a tuple of one for each step; as many equal ones are one, and a list is a tuple.

    Raises ValueError for another number of values, and for one that is not finite.
    """
    if not isinstance(scale, list | tuple):
        scale = (scale,) * steps
    values = tuple(float(value) for value in scale)
    if len(values) != steps:
        raise ValueError(f"guidance_scale has {len(values)} values for {steps} steps; want one for each, or one")
    if not all(abs(value) <= 1000 for value in values):  # NaN is not, either
        raise ValueError(f"guidance_scale is {quoted(scale)}; want numbers between -1000 and 1000")
    return values[0] if len(set(values)) == 1 else values


def scale_at(guidance_scale: Guidance, index: int) -> float:
    """The guidance at a step index, of one number or of one for each step."""
    return guidance_scale[index] if isinstance(guidance_scale, tuple) else guidance_scale
