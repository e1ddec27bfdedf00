"""Train the small image encoder first: python -m train.paint.tower --data runs/data --out runs/tower

Paint by Example starts from CLIP's image tower, which knows from captioned pictures what things are called. The drawn
world has no such tower, so one is trained here, from nothing, on its captioned pictures: what it makes of a cut-out
subject is to be what the miniature's text encoder makes of that subject's caption, the mean over the caption's words as
one token. The U-Net understands such a token from the first step on (arXiv:2211.13227, section 3.2, asks the same of
its encoder: what is in the picture, and not the picture itself).

What it leaves is a painter that has not learnt to paint yet, whose encoder `python -m train.paint --tower` takes.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.inpainting import white_box
from models.stable_diffusion import StableDiffusion
from models.tokenizer import unpadded
from models.vision import ImageEncoder
from train.miniature.data import STREAMS, WORLDS, load_chunks, load_masks, scene_at
from train.miniature.loop import Budget, Trainer, streams, training_parser
from train.paint.augment import PixelBox, reference_of
from train.paint.config import miniature_painter
from train.paint.learn import PAINTER_FILE
from train.paint.step import start_from
from train.world import Look, Scene, phrase, render
from weights.load import load_as, save

TEXTS_AT_ONCE, JUDGED = 64, 200
BY_ADAMW = ("patches", "embedding", "proj_out", "empty")  # parameters that AdamW trains, and not Muon


@torch.no_grad()
def in_one_token(model: StableDiffusion, texts: Sequence[str], progress: bool = False) -> Tensor:
    """Texts as one token of context each, (b 1 width): the mean of their tokens' states, the end's included."""
    found = []
    for start in tqdm(range(0, len(texts), TEXTS_AT_ONCE), desc="captions", disable=not progress):
        some = texts[start : start + TEXTS_AT_ONCE]
        for text, states in zip(some, model.encode_text(some), strict=True):
            found.append(states[1 : len(unpadded(model.tokenizer, text))].mean(0, keepdim=True))
    return torch.stack(found)


def said_of(look: Look) -> str:
    """The caption of a subject by itself."""
    return f"a photo of {phrase(look)}"


class Captioned:
    """Subjects of drawn pictures that are alone in them and seen: picture, box, and the token of the caption.

    pictures, masks, scenes: as `train.miniature.data` loads them.
    """

    def __init__(
        self,
        model: StableDiffusion,
        pictures: list[NDArray[np.uint8]],
        masks: list[NDArray[np.uint8]],
        scenes: list[Scene],
        progress: bool = True,
    ) -> None:
        shown = zip(chain.from_iterable(pictures), chain.from_iterable(masks), scenes, strict=True)
        alone = [(picture, _box(mask), said_of(scene.look)) for picture, mask, scene in shown if not scene.others]
        self.subjects = [(picture, box, text) for picture, box, text in alone if box]
        texts = sorted({text for *_, text in self.subjects})
        self.tokens = dict(zip(texts, in_one_token(model, texts, progress).cpu(), strict=True))

    def batch(self, count: int, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """References, augmented as in a painter's training, (count 3 size size), and tokens (count 1 width)."""
        found = [self.subjects[i] for i in rng.integers(len(self.subjects), size=count).tolist()]
        references = [reference_of(Image.fromarray(np.array(picture)), box, rng, size) for picture, box, _ in found]
        return torch.stack(references), torch.stack([self.tokens[text] for *_, text in found])


def _box(packed: NDArray[np.uint8]) -> PixelBox | None:
    """The box around a subject's pixels, eight of which are a byte."""
    return Image.fromarray(np.unpackbits(packed, axis=-1)).getbbox()


@torch.no_grad()
def found_again(encoder: ImageEncoder, model: StableDiffusion, world: str, unseen: bool, count: int) -> float:
    """How often a picture's token is nearest to its own caption's, of all captions of so many scenes never trained on.

    unseen: of looks kept out of training.
    """
    scenes = [scene_at(WORLDS[world], STREAMS["held out"], i, unseen) for i in range(count)]
    captions = sorted({said_of(scene.look) for scene in scenes})
    tokens, right = in_one_token(model, captions), 0
    for scene in scenes:
        drawn = render(scene)
        box = white_box(drawn.mask)
        assert box is not None  # of one subject with nothing before it
        token = encoder(reference_of(drawn.image, box, None, encoder.config.size)[None])
        nearest = (tokens.to(token.device) - token).flatten(1).square().sum(1).argmin()
        right += captions[int(nearest)] == said_of(scene.look)
    return right / count


def main() -> None:
    parser = training_parser(__doc__, "runs/tower", steps=1200, batch=64, lr=2e-3)
    parser.add_argument("--init", default="miniature", help="the model whose text encoder says what is right")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, keep weights in float32")
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"train.paint.tower: {error}")


def run(args: argparse.Namespace) -> None:
    model = load_as(StableDiffusion, args.init, args.device)
    painter = start_from(model, miniature_painter(model.config), args.seed)
    encoder = painter.image_encoder
    pictures, scenes = load_chunks(args.data)
    source = Captioned(model, pictures, load_masks(args.data), scenes)
    with torch.no_grad():
        encoder.empty.copy_(in_one_token(model, [""]))
    encoder.empty.requires_grad_(False)
    spread = torch.stack([*source.tokens.values()]).var().item()
    trainer = Trainer(encoder, BY_ADAMW, args.lr, Budget(args.steps, args.minutes), args.out)
    for step, share in trainer.progress():
        rng, _ = streams(args.seed, trainer.team.rank, step)
        references, wanted = source.batch(args.batch, rng, encoder.config.size)
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=args.bf16):
            found = encoder(references.to(trainer.device))
        loss = F.mse_loss(found.float(), wanted.to(trainer.device)) / spread
        trainer.step(loss, share)
        if step % 50 == 0:
            trainer.bar.set_postfix_str(f"step {step} loss {loss.item():.3f}")
    if not trainer.team.leads:
        return
    encoder.load_state_dict(trainer.ema)
    save(painter, args.out / PAINTER_FILE)
    for unseen in (False, True):
        right = found_again(encoder, model, args.world, unseen, JUDGED)
        print(f"of {JUDGED} {'unseen' if unseen else 'seen'} looks {right:.1%} are nearest to their own caption")


if __name__ == "__main__":
    main()
