"""Say how good the miniature is: python -m train.miniature.judge --model miniature --prompts 500

Three questions, all on scenes of a stream that no training sees. How well does the autoencoder carry a picture, and the
subject in it? What does the recogniser say of drawn pictures, as they are and as the autoencoder brings them back: the
most that samples can reach. And of what is sampled for a caption, how often is it what was asked? A checkered coat of
two colours is nearly the same in the other order, so that is asked twice: with their order, and in either.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.images import to_image
from models.stable_diffusion import StableDiffusion
from train.miniature.autoencoder import held_out, reconstruction_psnr
from train.miniature.data import STREAMS, WORLDS, scene_at
from train.miniature.samples import sample_prompts
from train.recogniser import ATTRIBUTES, RECOGNISER_FILE, Recogniser, Seen, load_recogniser, recognise_subjects
from train.world import Scene, caption, render
from weights.atomic import atomic
from weights.load import load

ASKED = ("species", "colour", "pattern", "place")
SHARES_TOLD = (*ASKED, "all four", "colours in either order", "all four so")


@dataclass(frozen=True)
class Judgement:
    """psnr: in dB, by kind of scene and place. The rest: how often each of ASKED is right, and the others of `hits`."""

    psnr: dict[str, float]
    drawn: dict[str, float]
    carried: dict[str, float]
    sampled: dict[str, float]
    sampled_unseen: dict[str, float]

    def __str__(self) -> str:
        lines = [f"autoencoder, {name}: {value:.2f} dB" for name, value in self.psnr.items()]
        for name, shares in (
            ("drawn pictures", self.drawn),
            ("the same through the autoencoder", self.carried),
            ("samples", self.sampled),
            ("samples of looks never trained on", self.sampled_unseen),
        ):
            lines.append(f"{name}: " + ", ".join(f"{what} {share:.1%}" for what, share in shares.items()))
        return "\n".join(lines)


def coat_of(seen: Seen) -> set[str]:
    """The colours of a coat, without their order: one of a plain coat, of others the likeliest pair of two."""
    if seen["pattern"] == "plain":
        return {seen["colour"]}
    colours = ATTRIBUTES["colour"]
    either = torch.outer(*(torch.tensor(seen.probabilities[name]) for name in ("colour", "second")))
    either = (either + either.T).fill_diagonal_(0)
    return {colours[i] for i in divmod(int(either.argmax()), len(colours))}


def hits(recogniser: Recogniser, pictures: list[Image.Image], scenes: list[Scene]) -> dict[str, float]:
    """The share of pictures that show what their scene says.

    For each of ASKED, where colour is the coat's first, and for all of them together; then for all the coat's colours
    in either order, and for all of ASKED with that in place of the first.
    """
    right = []
    for seen, scene in zip(recognise_subjects(recogniser, pictures), scenes, strict=True):
        look = scene.look
        asked = look.species, look.colour, look.pattern, scene.place
        each = {name: seen[name] == value for name, value in zip(ASKED, asked, strict=True)}
        either = coat_of(seen) == ({look.colour} if look.pattern == "plain" else {look.colour, look.second})
        right.append([*each.values(), all(each.values()), either, all((each | {"colour": either}).values())])
    return dict(zip(SHARES_TOLD, torch.tensor(right).float().mean(0).tolist(), strict=True))


@torch.no_grad()
def carry(model: StableDiffusion, images: Tensor) -> list[Image.Image]:
    """Pictures (n 3 h w) through the autoencoder and back."""
    parts = [model.decode(model.encode_image(part)) for part in images.split(25)]
    return [to_image(row) for row in torch.cat(parts)]


def fresh_scenes(world: str, count: int, unseen: bool) -> list[Scene]:
    """Scenes of one subject that no training sees."""
    return [scene_at(WORLDS[world], STREAMS["judge"], i, unseen=unseen) for i in range(count)]


def judge(
    model: StableDiffusion,
    recogniser: Recogniser,
    world: str = "small",
    prompts: int = 500,
    scenes: int = 100,
    steps: int = 50,
    guidance_scale: float = 3.0,
) -> Judgement:
    """prompts: how many samples, half of them of looks never trained on. scenes: how many pictures to reconstruct."""
    psnr = {}
    for name, mixed in (("one subject", False), ("all kinds of scene", True)):
        images, masks = (t.to(model.device) for t in held_out(world, scenes, STREAMS["judge"], mixed))
        psnr[f"{name}, everywhere"] = reconstruction_psnr(model.vae, images)
        psnr[f"{name}, in the subject"] = reconstruction_psnr(model.vae, images, masks)
    seen = fresh_scenes(world, scenes, unseen=True)
    drawn = [render(scene).image for scene in seen]
    carried = carry(model, held_out(world, scenes, STREAMS["judge"])[0].to(model.device))
    shares = []
    with tqdm(total=prompts, unit="sample") as bar:
        for unseen, count in ((False, prompts - prompts // 2), (True, prompts // 2)):
            asked, pictures = fresh_scenes(world, count, unseen), []
            for first in range(0, count, 25):
                words = [caption(scene) for scene in asked[first : first + 25]]
                pictures += sample_prompts(model, words, STREAMS["judge"] + first, steps, guidance_scale)
                bar.update(len(words))
            shares.append(hits(recogniser, pictures, asked) if pictures else {})
    return Judgement(psnr, hits(recogniser, drawn, seen), hits(recogniser, carried, seen), *shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--recogniser", type=Path, default=RECOGNISER_FILE)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--world", choices=WORLDS, default="small")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON too")
    args = parser.parse_args()
    if args.prompts < 1 or args.scenes < 1:
        parser.error("--prompts and --scenes must be at least 1")
    model, recogniser = load(args.model, args.device), load_recogniser(args.recogniser, args.device)
    judgement = judge(model, recogniser, args.world, args.prompts, args.scenes, args.steps, args.guidance)
    print(judgement)
    if args.out:
        with atomic(args.out) as place:
            place.write_text(json.dumps(vars(judgement), indent=2) + "\n")


if __name__ == "__main__":
    main()
