"""What the commands share: flags, and the model they ask for."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from photoswap.commands import arguments as types
from photoswap.commands.outputs import say
from photoswap.guidance import GUIDANCE_OF

if TYPE_CHECKING:
    import torch

    from models.stable_diffusion import LatentDiffusion, StableDiffusion
    from train.concepts import Concept

    Model = TypeVar("Model", bound=LatentDiffusion)
    ScaledConcept: TypeAlias = tuple[Concept, float]

DTYPES = ("float32", "bfloat16", "float16")
FILES = "(`photoswap weights fetch` gets them), a .safetensors or .ckpt file, or a folder with unet/, vae/ and"
OF_MODELS = f"miniature (built in), sd21, sd21-base or sd15 {FILES} text_encoder/ (default: %(default)s)"
OF_PAINTERS = (
    f"paint-by-example, sd15-inpainting or sd2-inpainting {FILES} image_encoder/ or text_encoder/ (default: "
    "paint-by-example with --reference, sd2-inpainting with --prompt)"
)
UNTIL_THE_END = ExitStack()  # of a command: settings of the process, made once torch is there and put back by `main`
STEPS, GUIDANCE = 50, 7.5
TILED = {"auto": None, "always": True, "never": False}


def add_common(
    parser: argparse.ArgumentParser, out: str, what: str, dtypes: bool = True, painters: bool = False
) -> None:
    """The flags of every command that runs a model. out: where it writes unless told; what: what it writes there.

    dtypes: whether the networks' can be chosen. painters: whether the models are those that paint inside a mask.
    """
    group = parser.add_argument_group("common")
    add_model(group, dtypes, painters)
    group.add_argument(
        "--seed", type=types.whole(0, types.SEED), metavar="N", help="the same seed gives the same bytes (default: 0)"
    )
    group.add_argument(
        "--out", type=types.path, default=Path(out), metavar="PATH", help=f"{what} (default: %(default)s)"
    )
    add_overwrite(group)
    group.add_argument("--quiet", action="store_true", help="no progress bars")
    group.add_argument("--debug", action="store_true", help="show where an error comes from")


def add_model(group: argparse._ActionsContainer, dtypes: bool = True, painters: bool = False) -> None:
    """The flags that say which model, and where and in which numbers it runs; arguments as for add_common."""
    group.add_argument(
        "--model",
        default=None if painters else "miniature",
        metavar="MODEL",
        help=OF_PAINTERS if painters else OF_MODELS,
    )
    add_what_it_is(group)
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps (default: cuda if present, else cpu)")
    if dtypes:
        group.add_argument("--dtype", choices=DTYPES, help="of the networks (default: float32)")


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """The flag without which no earlier result is replaced."""
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run left there")


def add_what_it_is(parser: argparse._ActionsContainer) -> None:
    """The flags for a checkpoint that does not say itself what it is."""
    parser.add_argument(
        "--config",
        metavar="NAME|FILE",
        help="what the model is, sd21 or sd21-base for instance, or a JSON file like the photoswap.json of a converted "
        "folder (default: as the model's own files say)",
    )
    parser.add_argument(
        "--prediction",
        choices=("eps", "v"),
        help="what the model predicts (default: as its files say, else as a probe of it finds)",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that samples."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--steps", type=types.whole(1, types.MOST_STEPS), metavar="N", help=f"of the sampler (default: {STEPS})"
    )
    group.add_argument(
        "--guidance",
        type=types.number(0, 100),
        metavar="SCALE",
        help=f"how strongly the prompt steers (default: {GUIDANCE}; {GUIDANCE_OF['miniature']} for the miniature)",
    )
    group.add_argument(
        "--size",
        type=types.size,
        metavar="WxH",
        help="pixels to work at, 768 or 768x512 (default: by model and picture)",
    )
    add_concepts(group)
    add_speed(parser)


def add_speed(parser: argparse.ArgumentParser) -> None:
    """The flags that change what it costs, and nothing else but rounding."""
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--fast",
        action="store_true",
        help="the networks in what this machine computes fastest, unless --dtype says otherwise, laid out for it, and "
        "compiled on a GPU, which takes a minute or more the first time and is told (docs/benchmarks.md)",
    )
    group.add_argument(
        "--tile",
        choices=tuple(TILED),
        default="auto",
        help="the autoencoder in bands, the same pixels in less memory (default: above a million pixels)",
    )


def add_concepts(parser: argparse._ActionsContainer) -> None:
    """The flag for what was learnt, here or by other tools."""
    parser.add_argument(
        "--concept",
        type=types.scaled_file,
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="concept.safetensors from `photoswap learn`, or a LoRA, an embedding or a Custom Diffusion delta of any "
        "tool; may be repeated, and what several add adds up (docs/concepts.md)",
    )


def load_model(
    arguments: argparse.Namespace, dtype: str | None = None, concepts: "Sequence[ScaledConcept] | None" = None
) -> "StableDiffusion":
    """The model asked for, with the concepts in it if there are any.

    dtype: instead of the one asked for. concepts: those that are wanted of --concept, if they have been read already;
    they are emptied into the model, so that memory holds none twice. Raises ValueError for a model that only paints
    inside a mask.
    """
    from models.fast import set_tiling
    from models.stable_diffusion import StableDiffusion

    if concepts is None:
        concepts = read_concepts(getattr(arguments, "concept", ()))
    model = load_kind(arguments, StableDiffusion, dtype)
    if model.config.paints:
        raise ValueError(
            f"{arguments.model} is {model.config.name}, which paints inside a mask and is given a picture to paint in: "
            "take a model that draws whole pictures, such as sd21-base"
        )
    put_concepts(model, concepts)
    set_tiling(model, TILED[getattr(arguments, "tile", "auto")])
    if getattr(arguments, "fast", False):
        speed_up(model, arguments.quiet)
    return model


def speed_up(model: "StableDiffusion", quiet: bool) -> None:
    """Make the model fast; what compiling cost is told at the end of the command."""
    from models.fast import make_fast

    warm_up = make_fast(model, "whole" if model.device.type == "cuda" else None)
    if warm_up and not quiet:
        UNTIL_THE_END.callback(lambda: say(f"compiling took {warm_up}", sys.stderr))


def load_kind(arguments: argparse.Namespace, kind: "type[Model]", dtype: str | None = None) -> "Model":
    """The model asked for, of this kind, without concepts. dtype: instead of the one asked for."""
    import torch

    from models.precision import full_float32
    from weights.load import load_as

    device = pick_device(arguments.device)
    make_repeatable(device)
    UNTIL_THE_END.enter_context(full_float32())
    wanted: torch.dtype | Literal["fastest"]
    wanted = getattr(torch, dtype or arguments.dtype or "float32")
    # null-text fits in float32 alone
    if getattr(arguments, "fast", False) and not arguments.dtype and getattr(arguments, "inversion", 0) != "null-text":
        wanted = "fastest"
    return load_as(kind, arguments.model, device, wanted, arguments.config, arguments.prediction)


def read_concepts(files: "Sequence[types.ScaledFile]") -> "list[ScaledConcept]":
    """The concepts of these files, each with its scale."""
    from train.concepts import open_concept

    return [(open_concept(file.path), file.scale) for file in files]


def put_concepts(model: "StableDiffusion", concepts: "Sequence[ScaledConcept]") -> None:
    """Put them into the model, all at once, emptying them."""
    from train.concepts import apply_in_place

    if concepts:
        apply_in_place(model, *(concept for concept, _ in concepts), scales=[scale for _, scale in concepts])


def pick_device(name: str | None) -> "torch.device":
    """The device of that name, or the best there is; of several GPUs each process that torchrun starts has its own.

    Raises ValueError, naming those there are.
    """
    import torch

    present = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    present += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name in (None, "cuda") and "LOCAL_RANK" in os.environ and "cuda:0" in present:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
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


def refuse(arguments: argparse.Namespace, because: str, *flags: str) -> None:
    """Raise ValueError when one of these flags was given, since it would change nothing. because: of what."""
    for flag in flags:
        if getattr(arguments, flag) is not None:
            raise ValueError(f"--{flag.replace('_', '-')} changes nothing {because}; leave it out")


def steps_for(asked: int | None) -> int:
    """The number of steps asked for, or the usual one."""
    return STEPS if asked is None else asked


def seed_for(asked: int | None) -> int:
    """The seed asked for, or 0."""
    return asked or 0


def guidance_for(model: "StableDiffusion", asked: float | None) -> float:
    """The guidance asked for, or the one that suits the model."""
    return GUIDANCE_OF.get(model.config.name, GUIDANCE) if asked is None else asked
