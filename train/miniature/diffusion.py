"""Train the miniature's U-Net and text encoder: torchrun --nproc-per-node 2 -m train.miniature.diffusion --minutes 90

Latent diffusion (arXiv:2112.10752), eq. 3, with v-prediction (arXiv:2202.00512) as in SD 2.1. Every scene is seen with
a caption that forgets attributes at random, mirrored or not; a tenth of the captions are empty, for guidance.
The loss printed beside the training's is that of looks never trained on, at fixed noise.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.config import MINIATURE
from models.text_encoder import TextEncoder
from models.tokenizer import Tokenizer
from models.unet import UNet
from models.vae import Autoencoder
from samplers.schedule import Schedule
from train.miniature.data import SIZE, WORLDS, load_chunks, scene_at
from train.miniature.loop import Budget, Trainer, streams, training_parser
from train.miniature.start import autoencoder_weights, diffusion_weights
from train.world import Scene, caption, render
from weights.atomic import atomic

FORGET = 0.15
EMPTY = 0.1


class EncodedPictures:
    """Scaled latents of every training picture and its mirror image, (n 2 4 16 16), encoded once and kept in files.

    One file for each folder of pictures. Its name tells which autoencoder, which folder and how many pictures it is of:
    others are encoded anew.
    """

    def __init__(self, out: Path, folders: Sequence[Path], autoencoder: Path, device: str) -> None:
        self.scenes: list[Scene] = []
        parts = []
        for folder in folders:
            pictures, scenes = load_chunks(folder)
            self.scenes += scenes
            digest = hashlib.sha256(autoencoder.read_bytes() + str(folder.resolve()).encode()).hexdigest()[:12]
            path = out / f"latents-{digest}-{len(scenes)}.npy"
            if not path.exists():
                model = Autoencoder(MINIATURE.vae).to(device)
                model.load_state_dict(autoencoder_weights(autoencoder))
                with atomic(path) as place:
                    np.save(
                        place,
                        np.concatenate([encode_pictures(model, chunk) for chunk in tqdm(pictures, desc="encode")]),
                    )
            parts.append(np.load(path))
        self.values = torch.from_numpy(np.concatenate(parts))

    def next_batch(self, count: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        """Random latents (count 4 16 16) and a caption for each."""
        rows, mirrored = rng.integers(len(self.values), size=count), rng.integers(2, size=count)
        texts = [
            "" if rng.random() < EMPTY else caption(self.scenes[i], rng, FORGET, bool(flipped))
            for i, flipped in zip(rows, mirrored, strict=True)
        ]
        return self.values[rows, mirrored].float(), texts


@torch.no_grad()
def encode_pictures(model: Autoencoder, pictures: np.ndarray, count: int = 50) -> np.ndarray:
    """Pictures (n h w 3) to the scaled latents of each and of its mirror image, (n 2 4 h/8 w/8) float16."""
    device, rows = model.quant_conv.weight.device, []
    for part in np.array_split(pictures, -(-len(pictures) // count)):
        images = torch.from_numpy(np.array(part)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        both = torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        latents = model.mean(model.encode(both)) * model.config.scale_factor
        rows.append(latents.unflatten(0, (-1, 2)).half().cpu().numpy())
    return np.concatenate(rows)


class Diffusion(nn.Module):
    """The two networks that learn together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(MINIATURE.unet)
        self.text = TextEncoder(MINIATURE.text)
        self.schedule = Schedule(prediction="v")

    def loss(self, latents: Tensor, tokens: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of v. latents, noise: (b 4 h w); tokens: (b 77); t: (b,) in 0..999."""
        noisy, target = self.schedule.add_noise(latents, noise, t), self.schedule.target(latents, noise, t)
        return F.mse_loss(self.unet(noisy, t.to(noisy.device), self.text(tokens)), target)


def timesteps(count: int, rng: np.random.Generator) -> Tensor:
    """One timestep in each of `count` equal stretches of 0..999, in random order: a steadier loss than drawing."""
    return torch.from_numpy(((rng.permutation(count) + rng.random(count)) / count * 1000).astype(np.int64))


class HeldOut:
    """Scenes of looks never trained on, with fixed noise: the same question at every call."""

    def __init__(self, world: str, autoencoder: Path, device: str, count: int = 128) -> None:
        model = Autoencoder(MINIATURE.vae)
        model.load_state_dict(autoencoder_weights(autoencoder))
        scenes: list[Scene] = [scene_at(WORLDS[world], 10_000, i, unseen=True) for i in range(count)]
        pictures = np.stack([np.asarray(render(scene, SIZE).image) for scene in scenes])
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.from_numpy(encode_pictures(model, pictures)[:, 0]).float().to(device)
        self.tokens = Tokenizer()([caption(scene) for scene in scenes]).to(device)
        self.noise = torch.randn(self.latents.shape, generator=generator).to(device)
        self.t = timesteps(count, np.random.default_rng(0))

    @torch.no_grad()
    def loss(self, model: Diffusion) -> float:
        """The loss over all of them."""
        return float(model.loss(self.latents, self.tokens, self.t, self.noise))

    def loss_of_average(self, model: Diffusion, average: dict[str, Tensor]) -> float:
        """The loss of the model with other weights, which it has only for the time of the call."""
        own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(average)
        loss = self.loss(model)
        model.load_state_dict(own)
        return loss


def main() -> None:
    parser = training_parser(__doc__, "runs/diffusion", steps=8000, batch=32, lr=2e-3)
    parser.add_argument(
        "--autoencoder",
        type=Path,
        default=Path("runs/autoencoder/autoencoder.pt"),
        help="what encodes the pictures: an autoencoder.pt or a complete checkpoint",
    )
    parser.add_argument("--init", type=Path, help="weights to start from: a checkpoint.pt or a complete checkpoint")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, keep weights in float32")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    model = Diffusion().to(args.device).to(memory_format=torch.channels_last)
    if args.init and not (args.out / "checkpoint.pt").exists():
        model.load_state_dict(diffusion_weights(args.init))
    plain = ("embedding", "conv_in", "conv_out")
    trainer = Trainer(model, plain, args.lr, Budget(args.steps, args.minutes), args.out)
    if trainer.team.leads:
        EncodedPictures(args.out, args.data, args.autoencoder, args.device)
    trainer.team.first(0.0, trainer.device)  # the others wait until the file is there
    latents = EncodedPictures(args.out, args.data, args.autoencoder, args.device)
    held, tokenizer = HeldOut(args.world, args.autoencoder, args.device), Tokenizer()
    running = 0.0
    for step, share in trainer.progress():
        rng, generator = streams(args.seed, trainer.team.rank, step)
        values, texts = latents.next_batch(args.batch, rng)
        eps = torch.randn(values.shape, generator=generator).to(args.device)
        tokens = tokenizer(texts).to(args.device)
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
            loss = model.loss(values.to(args.device), tokens, timesteps(args.batch, rng), eps)
        trainer.step(loss, share)
        running = running * 0.98 + loss.item() * 0.02 if running else loss.item()
        if step % 20 == 0:
            trainer.bar.set_postfix_str(f"step {step} loss {running:.4f}")
        if step % 250 == 0 and trainer.team.leads:
            samples = step * args.batch * trainer.team.count
            tqdm.write(
                f"step {step} samples {samples} minutes {trainer.budget.spent / 60:.1f} held-out loss "
                f"{held.loss(model):.4f}, of the average {held.loss_of_average(model, trainer.ema):.4f}"
            )


if __name__ == "__main__":
    main()
