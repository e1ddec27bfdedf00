"""Look at what the miniature has learnt: python -m train.miniature.samples --out samples.png

Samples for prompts whose species, colour and pattern were never trained on together, each under its prompt.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from models.images import grid, to_image
from models.stable_diffusion import StableDiffusion
from samplers.ddim import sample
from samplers.guidance import guided_eps
from train.miniature.data import WORLDS, scene_at
from train.world import caption
from weights.atomic import atomic
from weights.load import load


@torch.no_grad()
def sample_prompts(
    model: StableDiffusion, prompts: list[str], seed: int, steps: int, guidance_scale: float
) -> list[Image.Image]:
    """One picture for each prompt, all in one batch."""
    side = model.config.native_size // model.config.vae.factor
    noise = torch.randn(len(prompts), 4, side, side, generator=torch.Generator().manual_seed(seed)).to(model.device)
    null = model.encode_text("").expand(len(prompts), -1, -1)
    eps = guided_eps(model.unet, model.schedule, null, model.encode_text(prompts), guidance_scale)
    return [to_image(row) for row in model.decode(sample(eps, noise, model.schedule.sampling(steps)))]


def wrapped(text: str, width: int = 21) -> str:
    """The text in lines that fit under a picture; the opening "a photo of" left out."""
    lines = [""]
    for word in text.removeprefix("a photo of ").split():
        lines[-1:] = [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < width else [lines[-1], word]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--world", choices=WORLDS, default="small")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=Path("samples.png"))
    args = parser.parse_args()
    model = load(args.model, args.device, torch.float32)
    prompts = [caption(scene_at(WORLDS[args.world], 10_000 + args.seed, i, unseen=True)) for i in range(args.count)]
    pictures = sample_prompts(model, prompts, args.seed, args.steps, args.guidance)
    with atomic(args.out) as place:
        grid(pictures, [wrapped(prompt) for prompt in prompts], columns=8).save(place, format="PNG")


if __name__ == "__main__":
    main()
