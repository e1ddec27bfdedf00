"""Train a painter on pictures with boxes: python -m train.paint --pictures pictures/ --boxes boxes.csv --out runs/paint

Paint by Example's training (arXiv:2211.13227). From a published model the U-Net and the autoencoder are taken, and from
--tower a checkpoint that has CLIP's image tower, Paint by Example's own for instance. Without --pictures the drawn
world is painted, and the miniature is what it starts from; `python -m train.paint.tower` makes a --tower for it.

Several processes share the work: torchrun --nproc-per-node 8 -m train.paint ..., and with --shard the U-Net's weights
too. An interrupted run goes on with --resume. The finished painter is painter.safetensors in --out, for `photoswap
paint --model`.
"""

import argparse
import sys
from pathlib import Path

import torch

from models.config import PAINT_BY_EXAMPLE
from models.paint_by_example import PaintByExample
from models.stable_diffusion import LatentDiffusion
from train.miniature.data import WORLDS
from train.paint.config import PaintTraining, miniature_painter
from train.paint.examples import BoxedPictures, FolderPictures, WorldPictures
from train.paint.learn import train_painter
from train.paint.step import start_from
from train.parallel import own_device
from weights.load import load, load_as

# for the miniature: everything is small, to draw a row costs more than to learn from it, and the tower learns along
ON_THE_WORLD = {
    "steps": 4000,
    "batch": 64,
    "learning_rate": 4e-4,
    "warm": 500,
    "cool": 1500,
    "kept": 24_000,
    "train_tower": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder of pictures, with --boxes (default: the drawn world)")
    parser.add_argument("--boxes", type=Path, help="OpenImages' CSV of boxes, or a folder of text files")
    parser.add_argument("--world", choices=WORLDS, default="small")
    parser.add_argument("--init", default="miniature", help="the model that draws pictures, to start from")
    parser.add_argument("--painter", help="a painter to start from instead, which goes on learning")
    parser.add_argument("--tower", help="a checkpoint of a painter whose image encoder to start from")
    parser.add_argument("--out", type=Path, default=Path("runs/paint"))
    parser.add_argument("--device", type=own_device, default="cuda" if torch.cuda.is_available() else "cpu")
    for name, kind in (
        ("steps", int),
        ("batch", int),
        ("learning-rate", float),
        ("warm", int),
        ("cool", int),
        ("size", int),
    ):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--kept", type=int, help="so many rows are made once and shown again and again; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-tower", action=argparse.BooleanOptionalAction)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, keep weights in float32")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--shard", action="store_true", help="each process holds only its part of the U-Net")
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--makers", type=int, default=0, help="processes that draw and cut pictures ahead")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    if (args.pictures is None) != (args.boxes is None):
        parser.error("--pictures and --boxes go together")
    try:
        run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"train.paint: {error}")


def run(args: argparse.Namespace) -> None:
    names = ("steps", "batch", "learning_rate", "warm", "cool", "kept", "size", "train_tower")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    usual = ON_THE_WORLD if args.pictures is None else {}
    more = {"bfloat16": args.bf16, "gradient_checkpointing": args.gradient_checkpointing, "seed": args.seed}
    training = PaintTraining(**{**usual, **more, **given})
    source: BoxedPictures
    model = _painter(args)
    if args.pictures is None:
        source = WorldPictures(args.world, training.size or model.config.native_size)
    else:
        source = FolderPictures(args.pictures, args.boxes)
    train_painter(
        model,
        source,
        training,
        args.out,
        resume=args.resume,
        save_every=args.save_every,
        makers=args.makers,
        shards=args.shard,
    )


def _painter(args: argparse.Namespace) -> PaintByExample:
    """What is to learn, on the device, in float32."""
    if args.painter:
        return load_as(PaintByExample, args.painter, args.device)
    base: LatentDiffusion = load(args.init, args.device)
    small = base.config.name == "miniature"
    model = start_from(base, miniature_painter(base.config) if small else PAINT_BY_EXAMPLE, args.seed)
    if args.tower:
        model.image_encoder = load_as(PaintByExample, args.tower, args.device).image_encoder
    return model


if __name__ == "__main__":
    main()
