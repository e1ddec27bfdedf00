"""Train the miniature's autoencoder: torchrun --nproc-per-node 2 -m train.miniature.autoencoder --minutes 25

Latent diffusion (arXiv:2112.10752), section 3.1, with what a drawn world needs of its loss: absolute and squared error,
the error of edges, and a light pull of the latents towards a unit Gaussian. Two thirds of what the autoencoder gets
wrong lies inside the subjects, on a fifth of the area, so most crops are of them and their pixels count three times.
Afterwards the latents are whitened per channel and the whitening folded into the 1x1 convolutions around them, so that
scale_factor x latent has unit variance whatever training left.
"""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.config import MINIATURE
from models.vae import Autoencoder
from train.miniature.data import SIZE, STREAMS, WORLDS, load_chunks, load_masks, mixed_scene_at, scene_at
from train.miniature.loop import Budget, Trainer, streams, training_parser
from train.miniature.start import autoencoder_weights
from train.world import render
from weights.atomic import atomic

SUBJECT_WEIGHT = 3.0
AIMED = 0.75  # the share of crops around a point of a subject


def batch(
    pictures: list[NDArray[np.uint8]], masks: list[NDArray[np.uint8]], count: int, side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Random pictures or crops of them, half mirrored, (count 3 side side) in [-1, 1]; the subjects, (count side side).

    Crops start at multiples of 8, as the latents' pixels do. pictures, masks: as load_chunks and load_masks give them.
    """
    chosen, subjects = np.empty((count, side, side, 3), np.uint8), np.empty((count, side, side), bool)
    last = (SIZE - side) // 8
    for i in range(count):
        chunk = rng.integers(len(pictures))
        row = rng.integers(len(pictures[chunk]))
        corner = rng.integers(0, last + 1, 2)
        subject = np.unpackbits(masks[chunk][row], axis=-1)
        inside = np.argwhere(subject)
        if rng.random() < AIMED and len(inside):
            corner = np.clip(np.round((inside[rng.integers(len(inside))] - side / 2) / 8).astype(int), 0, last)
        y, x = 8 * corner
        crop, mask = (part[y : y + side, x : x + side] for part in (pictures[chunk][row], subject))
        flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
        chosen[i], subjects[i] = crop[:, flip], mask[:, flip]
    return torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(subjects)


def edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels, across and down."""
    return images.diff(dim=-1), images.diff(dim=-2)


def reconstruction_loss(
    model: Autoencoder, images: Tensor, generator: torch.Generator, kl_weight: float, subjects: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The training loss and the plain mean squared error of a batch (b 3 h w) in [-1, 1].

    subjects: where pixels count SUBJECT_WEIGHT times, (b h w); nowhere if not given.
    """
    mean, log_variance = model.split(model.encode(images))
    drawn = torch.randn(mean.shape, generator=generator).to(mean.device)
    error = model.decode(mean + (0.5 * log_variance).exp() * drawn) - images
    weight = torch.ones_like(error[:, :1])
    if subjects is not None:
        weight += (SUBJECT_WEIGHT - 1) * subjects[:, None].to(error)
        weight /= weight.mean()
    seen = (weight * (0.5 * error.abs() + 4 * error**2)).mean()
    sharp = sum((part.abs().mean() for part in edges(error)), start=error.new_zeros(()))
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return seen + 0.25 * sharp + kl_weight * kl, error.detach().square().mean()


def deepened(model: Autoencoder, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A complete state for the model from that of one with fewer residual blocks a level, which computes the same.

    Blocks that `tensors` lacks get the model's own weights and an end of zeros, so that they add nothing at first.
    """
    grown = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()} | tensors
    for name in grown.keys() - tensors.keys():
        if ".conv2." in name:
            grown[name] = torch.zeros_like(grown[name])
    return grown


@torch.no_grad()
def whiten(model: Autoencoder, images: Tensor) -> None:
    """Scale and shift each latent channel so that scale_factor x mean has mean 0 and variance 1 over these images.

    The change goes into quant_conv and its inverse into post_quant_conv: pictures stay what they were.
    """
    mean = torch.cat([model.mean(model.encode(part)) for part in images.split(50)])
    centre, spread = mean.mean((0, 2, 3)), mean.std((0, 2, 3))
    gain = 1 / (spread * model.config.scale_factor)
    n = model.config.latent_channels
    to, back = model.quant_conv, model.post_quant_conv
    to_bias, back_bias = cast(Tensor, to.bias), cast(Tensor, back.bias)
    to.weight[:n] *= gain[:, None, None, None]
    to_bias[:n] = (to_bias[:n] - centre) * gain
    to_bias[n:] += 2 * gain.log()
    back_bias += (back.weight[:, :, 0, 0] @ centre[:, None])[:, 0]
    back.weight /= gain[None, :, None, None]


@torch.no_grad()
def reconstruction_psnr(model: Autoencoder, images: Tensor, masks: Tensor | None = None) -> float:
    """Mean over pictures of the reconstruction's peak signal-to-noise ratio in dB, within masks (b h w) if given."""
    seen = torch.cat([model.decode(model.mean(model.encode(part))).clamp(-1, 1) for part in images.split(50)])
    error = (seen - images).square().mean(1)
    weight = torch.ones_like(error) if masks is None else masks.to(error)
    return float((10 * torch.log10(4 / ((error * weight).sum((1, 2)) / weight.sum((1, 2))))).mean())


def held_out(
    world: str, count: int = 100, seed: int = STREAMS["held out"], mixed: bool = False
) -> tuple[Tensor, Tensor]:
    """Pictures of looks never trained on, (n 3 h w) in [-1, 1], and where their subjects are, (n h w).

    mixed: of all kinds of scene, instead of one subject each.
    """
    scene = mixed_scene_at if mixed else scene_at
    drawn = [render(scene(WORLDS[world], seed, i, unseen=True), SIZE) for i in range(count)]
    images = torch.from_numpy(np.stack([np.asarray(picture.image) for picture in drawn]))
    masks = [np.any([np.asarray(mask) > 127 for mask in picture.masks], axis=0) for picture in drawn]
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(np.stack(masks))


def judged(state: dict[str, Tensor], world: str, device: str, count: int = 100) -> str:
    """What an autoencoder of these weights reaches on held-out looks, as a line to print."""
    model = Autoencoder(MINIATURE.vae).to(device)
    model.load_state_dict(state)
    images, masks = (tensor.to(device) for tensor in held_out(world, count))
    everywhere, inside = reconstruction_psnr(model, images), reconstruction_psnr(model, images, masks)
    return f"held-out looks: {everywhere:.2f} dB, in the subject {inside:.2f} dB"


def main() -> None:
    parser = training_parser(__doc__, "runs/autoencoder", steps=20000, batch=8, lr=3e-3)
    parser.add_argument("--kl", type=float, default=1e-4, help="weight of the pull towards a unit Gaussian")
    parser.add_argument("--full", type=float, default=0.15, help="share of the run, at its end, on complete pictures")
    parser.add_argument(
        "--freeze-encoder", action="store_true", help="train the decoder alone: latents stay as they are"
    )
    parser.add_argument(
        "--init",
        type=Path,
        help="weights to start from, of as many blocks a level or fewer: an autoencoder.pt or a complete checkpoint",
    )
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, keep weights in float32")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model = Autoencoder(MINIATURE.vae).to(args.device).to(memory_format=torch.channels_last)
    if args.init:
        model.load_state_dict(deepened(model, autoencoder_weights(args.init)))
    if args.freeze_encoder:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    trainer = Trainer(model, ("conv_in", "conv_out", "quant_conv"), args.lr, Budget(args.steps, args.minutes), args.out)
    (pictures, _), masks = load_chunks(args.data), load_masks(args.data)
    running = 0.0
    for step, share in trainer.progress():
        rng, generator = streams(args.seed, trainer.team.rank, step)
        side, count = (SIZE, max(args.batch // 4, 1)) if share > 1 - args.full else (64, args.batch)
        images, subjects = batch(pictures, masks, count, side, rng)
        images = images.to(args.device, memory_format=torch.channels_last)
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
            loss, square = reconstruction_loss(model, images, generator, args.kl, subjects.to(args.device))
        trainer.step(loss, share)
        running = running * 0.98 + square.item() * 0.02 if running else square.item()
        if step % 50 == 0:
            trainer.bar.set_postfix_str(f"step {step} psnr {10 * np.log10(4 / running):.2f} dB")
        if step % 500 == 0 and trainer.team.leads:
            tqdm.write(f"step {step} {judged(trainer.ema, args.world, args.device, count=32)}")
    if trainer.team.leads:
        finished = Autoencoder(MINIATURE.vae).to(args.device)
        finished.load_state_dict(trainer.ema)
        if not args.freeze_encoder:
            whiten(finished, batch(pictures, masks, 200, SIZE, np.random.default_rng(0))[0].to(args.device))
        print(judged(finished.state_dict(), args.world, args.device))
        with atomic(args.out / "autoencoder.pt") as place:
            torch.save(finished.state_dict(), place)


if __name__ == "__main__":
    main()
