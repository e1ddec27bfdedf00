"""One step of a painter's training: what it is shown, what it is asked, and which of its weights learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import PaintConfig
from models.inpainting import latent_mask, left_of, painting
from models.paint_by_example import PaintByExample
from models.stable_diffusion import LatentDiffusion
from train.paint.examples import PaintExample
from weights.load import meta_model

IN_CHANNELS, OWN_CHANNELS = 9, 4


@dataclass(frozen=True, eq=False)
class EncodedExample:
    """A `PaintExample` as the networks take it.

    image, rest: moments (2c h w) of the Gaussians of the complete picture's latents, and of what is left of it.
    keep: (1 h w), 1 where that is. reference: (3 s s), normalised.
    """

    image: Tensor
    rest: Tensor
    keep: Tensor
    reference: Tensor


PaintRow: TypeAlias = PaintExample | EncodedExample


def start_from(base: LatentDiffusion, config: PaintConfig, seed: int = 0) -> PaintByExample:
    """A painter whose U-Net and autoencoder are those of a model that draws whole pictures.

    The five channels that its U-Net lacks start from zero, so that at first it sees nothing of the picture. The image
    encoder is drawn from the seed; a published tower is then put in by `PaintByExample.image_encoder.tower`.
    Raises ValueError where the two do not fit each other.
    """
    wanted, given = config.unet.in_channels, base.config.unet.in_channels
    if (wanted, given) != (IN_CHANNELS, OWN_CHANNELS):
        raise ValueError(f"the U-Net is to go from {given} to {wanted} input channels; want 4 to 9")
    model = meta_model(config)
    for network, own in ((model.unet, base.unet), (model.vae, base.vae)):
        state = {name: tensor.detach().clone() for name, tensor in own.state_dict().items()}
        if network is model.unet:
            first = state["conv_in.weight"]
            more = first.new_zeros((first.shape[0], IN_CHANNELS - OWN_CHANNELS, *first.shape[2:]))
            state["conv_in.weight"] = torch.cat([first, more], dim=1)
        try:
            network.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{config.name} cannot start from {base.config.name}: {str(error)[:200]}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = type(model.image_encoder)(config.image)
    model.image_encoder = drawn.to(base.device, base.dtype)
    return model


def what_learns(model: PaintByExample, train_tower: bool) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name: the U-Net, the mapper, its norm and projection, the empty token.

    Queries and keys of the mapper are among them, as published, though with one token their gradient is zero.
    """
    names = {f"unet.{name}": p for name, p in model.unet.named_parameters()}
    for name, p in model.image_encoder.named_parameters():
        if train_tower or not name.startswith("tower."):
            names[f"image.{name}"] = p
    return names


def painting_loss(
    model: PaintByExample,
    latents: Tensor,
    rest: Tensor,
    keep: Tensor,
    references: Tensor,
    t: Tensor,
    noise: Tensor,
    empty: bool,
) -> Tensor:
    """The mean squared error of each row's estimate, (b,); arXiv:2211.13227, eq. 1.

    latents: of the complete picture, (b 4 h w). rest: of what is left of it. keep: where that is, (b 1 h w), as it
    comes to the size of latents. references: (b 3 s s). t: (b,) in 0..999. noise: of the latents alone; what stands
    beside them bears none. empty: whether the token of no reference takes the references' place.
    """
    token = model.unconditional()
    context = token.expand(len(latents), -1, -1) if empty else model.encode_reference(references)
    noisy, target = model.schedule.add_noise(latents, noise, t), model.schedule.target(latents, noise, t)
    output = painting(model.unet, model.beside(rest, 1 - keep))(noisy, t.to(noisy.device), context)
    errors = F.mse_loss(output.float(), target.float(), reduction="none")
    return errors.flatten(1).mean(1)


@torch.no_grad()
def encoded(model: PaintByExample, row: PaintExample) -> EncodedExample:
    """A row encoded, on the model's device."""
    image, hole = row.image[None].to(model.device), row.mask[None].to(model.device)
    whole, rest = (model.moments_of(picture)[0] for picture in (image, left_of(image, hole)))
    keep = 1 - latent_mask(hole, model.config.vae.factor, model.mask_resize)[0]
    return EncodedExample(whole, rest, keep, row.reference)


@torch.no_grad()
def prepared(
    model: PaintByExample, rows: Sequence[PaintRow], generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, what is left of them, where it is, and references, of so many rows; each draws from its own generator.

    Both latents are draws of the autoencoder's Gaussian, as published: first the complete picture's, then the rest's.
    """
    device, latents, rests = model.device, list[Tensor](), list[Tensor]()
    found = [encoded(model, row) if isinstance(row, PaintExample) else row for row in rows]
    for row, generator in zip(found, generators, strict=True):
        latents.append(model.vae.latents(row.image[None].to(device), generator))
        rests.append(model.vae.latents(row.rest[None].to(device), generator))
    keep, references = (
        torch.stack(column).to(device) for column in zip(*((r.keep, r.reference) for r in found), strict=True)
    )
    return torch.cat(latents), torch.cat(rests), keep, references
