"""Train the miniature's autoencoder: torchrun --nproc-per-node 2 -m train.miniature.autoencoder --minutes 25

Latent diffusion (arXiv:2112.10752), section 3.1, with what a drawn world needs of its loss: absolute and squared error,
the error of edges, and a light pull of the latents towards a unit Gaussian. Afterwards the latents are whitened per
channel and the whitening folded into the 1x1 convolutions around them, so that scale_factor x latent has unit variance
whatever training left.
"""

import argparse
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.config import MINIATURE
from models.vae import Autoencoder
from train.miniature.data import SIZE, WORLDS, load, scene_at
from train.miniature.loop import Budget, Trainer, noise
from train.world import draw
from weights.atomic import atomic


def batch(pictures: list[NDArray[np.uint8]], count: int, side: int, rng: np.random.Generator) -> Tensor:
    """Random pictures or crops of them, half mirrored, (count 3 side side) in [-1, 1]."""
    chosen = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        chunk = pictures[rng.integers(len(pictures))]
        y, x = 8 * rng.integers(0, (SIZE - side) // 8 + 1, 2)
        crop = chunk[rng.integers(len(chunk)), y : y + side, x : x + side]
        chosen[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 127.5 - 1


def edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels, across and down."""
    return images.diff(dim=-1), images.diff(dim=-2)


def loss_of(model: Autoencoder, images: Tensor, generator: torch.Generator, kl_weight: float) -> tuple[Tensor, Tensor]:
    """The training loss and the plain mean squared error of a batch (b 3 h w) in [-1, 1]."""
    mean, log_variance = model.split(model.encode(images))
    drawn = torch.randn(mean.shape, generator=generator).to(mean.device)
    seen = model.decode(mean + (0.5 * log_variance).exp() * drawn)
    square = F.mse_loss(seen, images)
    sharp = sum((F.l1_loss(a, b) for a, b in zip(edges(seen), edges(images), strict=True)), start=square.new_zeros(()))
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return 0.5 * F.l1_loss(seen, images) + 2 * square + 0.25 * sharp + kl_weight * kl, square


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
def psnr(model: Autoencoder, images: Tensor, masks: Tensor | None = None) -> float:
    """Mean over pictures of the reconstruction's peak signal-to-noise ratio in dB, within masks (b h w) if given."""
    seen = torch.cat([model.decode(model.mean(model.encode(part))).clamp(-1, 1) for part in images.split(50)])
    error = (seen - images).square().mean(1)
    weight = torch.ones_like(error) if masks is None else masks.to(error)
    return float((10 * torch.log10(4 / ((error * weight).sum((1, 2)) / weight.sum((1, 2))))).mean())


def held_out(world: str, count: int = 100) -> tuple[Tensor, Tensor]:
    """Pictures of looks never trained on, (n 3 h w) in [-1, 1], and where their subjects are, (n h w)."""
    drawn = [draw(scene_at(WORLDS[world], 10_000, i, unseen=True)) for i in range(count)]
    images = torch.from_numpy(np.stack([np.asarray(picture.image) for picture in drawn]))
    masks = torch.from_numpy(np.stack([np.asarray(picture.mask) > 127 for picture in drawn]))
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1, masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--world", choices=WORLDS, default="small", help="the world the data shows, for held-out looks")
    parser.add_argument("--out", type=Path, default=Path("runs/autoencoder"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--minutes", type=float, help="stop by the clock instead of by steps")
    parser.add_argument("--batch", type=int, default=8, help="crops of 64 px in each process")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--kl", type=float, default=1e-4, help="weight of the pull towards a unit Gaussian")
    parser.add_argument("--whole", type=float, default=0.15, help="share of the run, at its end, on whole pictures")
    parser.add_argument(
        "--freeze-encoder", action="store_true", help="train the decoder alone: latents stay as they are"
    )
    parser.add_argument("--from", dest="start", type=Path, help="weights to start from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model = Autoencoder(MINIATURE.vae).to(args.device).to(memory_format=torch.channels_last)
    if args.start:
        model.load_state_dict(torch.load(args.start, weights_only=True))
    if args.freeze_encoder:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    trainer = Trainer(model, ("conv_in", "conv_out", "quant_conv"), args.lr, Budget(args.steps, args.minutes), args.out)
    pictures, _ = load(args.data)
    stream = [args.seed, trainer.workers.rank, trainer.budget.step]
    rng, generator = np.random.default_rng(stream), noise(stream)
    running = 0.0
    for step, share in trainer.progress():
        side, count = (SIZE, max(args.batch // 4, 1)) if share > 1 - args.whole else (64, args.batch)
        images = batch(pictures, count, side, rng).to(args.device, memory_format=torch.channels_last)
        loss, square = loss_of(model, images, generator, args.kl)
        trainer.step(loss, share)
        running = running * 0.98 + square.item() * 0.02 if running else square.item()
        if step % 50 == 0:
            trainer.bar.set_postfix_str(f"step {step} psnr {10 * np.log10(4 / running):.2f} dB")
    if trainer.workers.rank == 0:
        finished = Autoencoder(MINIATURE.vae).to(args.device)
        finished.load_state_dict(trainer.ema)
        if not args.freeze_encoder:
            whiten(finished, batch(pictures, 200, SIZE, np.random.default_rng(0)).to(args.device))
        images, masks = (tensor.to(args.device) for tensor in held_out(args.world))
        print(f"held-out looks: {psnr(finished, images):.2f} dB, in the subject {psnr(finished, images, masks):.2f} dB")
        with atomic(args.out / "autoencoder.pt") as place:
            torch.save(finished.state_dict(), place)


if __name__ == "__main__":
    main()
