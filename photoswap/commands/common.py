"""What the commands share: flags, the model they ask for, and files written whole."""

import argparse
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from models.stable_diffusion import StableDiffusion
    from train.checkpoint import Concept

DTYPES = ("float32", "bfloat16", "float16")
STEPS, GUIDANCE = 50, 7.5
GUIDANCE_OF = {"miniature": 3.0}  # trained on less, it overshoots at the 7.5 of the published models
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def add_common(parser: argparse.ArgumentParser, out: str, what: str) -> None:
    """The flags that every command has. out: where it writes unless told; what: what it writes there."""
    group = parser.add_argument_group("common")
    group.add_argument(
        "--model",
        default="miniature",
        metavar="MODEL",
        help="miniature (built in), sd21, sd21-base or sd15 (`photoswap weights fetch` gets them), a .safetensors or "
        ".ckpt file, or a folder with unet/, vae/ and text_encoder/ (default: %(default)s)",
    )
    add_what_it_is(group)
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps (default: cuda if present, else cpu)")
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="of the networks (default: %(default)s)")
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same bytes (default: %(default)s)"
    )
    group.add_argument("--out", type=Path, default=Path(out), metavar="PATH", help=f"{what} (default: %(default)s)")
    group.add_argument("--quiet", action="store_true", help="no progress bars")
    group.add_argument("--debug", action="store_true", help="show where an error comes from")


def add_what_it_is(parser: argparse._ActionsContainer) -> None:
    """The flags for a checkpoint that does not say itself what it is."""
    parser.add_argument(
        "--config",
        metavar="NAME",
        help="what the model is, sd21 or sd21-base for instance, where neither its content nor its name tells",
    )
    parser.add_argument(
        "--prediction",
        choices=("eps", "v"),
        help="what the model predicts (default: as its files say, else as a probe of it finds)",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that samples."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--steps", type=int, metavar="N", help=f"of the sampler (default: {STEPS})")
    group.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help=f"how strongly the prompt steers (default: {GUIDANCE}; {GUIDANCE_OF['miniature']} for the miniature)",
    )
    group.add_argument(
        "--size", type=size, metavar="WxH", help="pixels to work at, 768 or 768x512 (default: by model and picture)"
    )
    group.add_argument("--concept", type=Path, metavar="FILE", help="concept.safetensors from `photoswap learn`")


def size(text: str) -> tuple[int, int]:
    """ "768" or "768x512" as (width, height)."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; want 768 or 768x512")
    return int(parts[0]), int(parts[-1])


def load_model(
    arguments: argparse.Namespace, dtype: str | None = None, concept: "Concept | None" = None
) -> "StableDiffusion":
    """The model asked for, with the concept in it if there is one.

    dtype: instead of the one asked for. concept: the one of --concept, if it has been read already.
    """
    import torch

    from weights.load import load

    device = pick_device(arguments.device)
    make_repeatable(device)
    kind = getattr(torch, dtype or arguments.dtype)
    model = load(arguments.model, device, kind, arguments.config, arguments.prediction)
    wanted = concept or getattr(arguments, "concept", None)
    if wanted is None:
        return model
    from train.checkpoint import apply_concept

    return apply_concept(model, wanted)


def pick_device(name: str | None) -> "torch.device":
    """The device of that name, or the best there is. Raises ValueError, naming those there are."""
    import torch

    present = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    present += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name is None:
        return torch.device("cuda" if "cuda:0" in present else "cpu")
    if name not in present and not (name == "cuda" and "cuda:0" in present):
        raise ValueError(f"no device {name!r} here; there is {', '.join(present)}")
    return torch.device(name)


def make_repeatable(device: "torch.device") -> None:
    """Have the GPU add in a fixed order where it can; the CPU does so anyway. For the whole process."""
    import torch

    if device.type == "cuda":
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def steps_for(asked: int | None) -> int:
    """The number of steps asked for, or the usual one."""
    return STEPS if asked is None else asked


def guidance_for(model: "StableDiffusion", asked: float | None) -> float:
    """The guidance asked for, or the one that suits the model."""
    return GUIDANCE_OF.get(model.config.name, GUIDANCE) if asked is None else asked


def check_file(path: Path, suffixes: tuple[str, ...] = PICTURES) -> None:
    """Raise ValueError, before any work is done, unless a file of such a kind could be written there."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {path}: want a name that ends in {' or '.join(suffixes)}")
    _check_parents(path.parent)


def check_folder(path: Path) -> None:
    """Raise ValueError, before any work is done, unless files could be written into that folder."""
    _check_parents(path)


def write_picture(picture: "Image.Image", path: Path) -> None:
    """Write one picture, whole or not at all."""
    write_together({path: picture})


def write_together(contents: "dict[Path, Image.Image | str]") -> None:
    """Write pictures and texts: each whole, and none in its place before all are on the disk."""
    from weights.atomic import atomic, flush

    with ExitStack() as stack:
        places = {path: stack.enter_context(atomic(path)) for path in contents}
        for path, content in contents.items():
            if isinstance(content, str):
                places[path].write_text(content, encoding="utf-8")
            else:
                content.save(places[path])
        for place in places.values():
            flush(place)


def _check_parents(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file, so nothing can be put into it; choose another --out")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"nothing may be written into {existing.absolute()}; choose another --out")
