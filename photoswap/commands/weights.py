"""Get official checkpoints, check them, and convert them for other tools.

  list     the published checkpoints, and which of them are here
  fetch    download one: hashed on the way, resumed where it broke off
  verify   whether a file or folder is complete, undamaged and what it is called
  convert  write it in the other layout, with concepts in it if there are any

examples:
  photoswap weights list
  photoswap weights fetch sd21-base
  photoswap weights fetch sd21 --mirror https://hf-mirror.example --cache /data/weights
  photoswap weights verify sd21
  photoswap weights convert sd21-base my-cat-sd21 --layout folder --concept my-cat/concept.safetensors
"""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from photoswap.commands import arguments as types
from photoswap.commands.common import DTYPES, add_concepts, add_overwrite, add_what_it_is, put_concepts, read_concepts
from photoswap.commands.outputs import check_free, say

if TYPE_CHECKING:
    from models.stable_diffusion import StableDiffusion

SHOWN = ("fetch", "verify")  # the actions that show their progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `photoswap weights`, each with its own flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (add, run_action) in ACTIONS.items():
        text = run_action.__doc__ or ""
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        add(action)
        if name in SHOWN:
            action.add_argument("--quiet", action="store_true", help="no progress bars")
        action.add_argument("--debug", action="store_true", help="show where an error comes from")
        action.set_defaults(run_action=run_action)


def run(arguments: argparse.Namespace) -> None:
    """Run the action."""
    arguments.run_action(arguments)


def list_weights(arguments: argparse.Namespace) -> None:
    """Show the published checkpoints, and which of them are here."""
    from models.config import MODELS
    from weights.published import MINIATURE_FILE, PUBLISHED, cache_folder

    files = {"miniature": MINIATURE_FILE}
    folder = arguments.cache or cache_folder()
    files |= {name: folder / published.here for name, published in PUBLISHED.items()}
    lines = []
    for name, path in files.items():
        size = PUBLISHED[name].bytes if name in PUBLISHED else path.stat().st_size if path.exists() else 0
        config = MODELS[name]
        state = "here" if path.exists() else "begun" if path.with_name(f"{path.name}.part").exists() else "not here"
        about = f"{config.noise.prediction:3}  {config.native_size:3} px"
        lines.append(f"{name:16} {size / 1e9:7.3f} GB  predicts {about}  {state:8}  {path}")
    for line in lines:  # only now, for a folder that cannot be asked is an error, and nothing is said before one
        say(line)


def fetch_weights(arguments: argparse.Namespace) -> None:
    """Download a published checkpoint into the cache folder."""
    from weights.fetch import fetch
    from weights.published import VARIABLE, cache_folder

    if arguments.offline and arguments.mirror:
        raise ValueError("--offline asks no --mirror; leave one of them out")
    try:
        path = fetch(
            arguments.name,
            arguments.cache,
            arguments.mirror,
            arguments.offline or None,
            progress=not arguments.quiet,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on from where it was") from None
    say(path)
    if path.parent.absolute() != cache_folder().absolute():
        say(f"for the other commands to find it there: export {VARIABLE}={path.parent.absolute()}")


def verify_weights(arguments: argparse.Namespace) -> None:
    """Read every byte of a checkpoint: is it complete, undamaged, and the one it is called?"""
    from weights.verify import verify

    report = verify(arguments.path, arguments.config, arguments.prediction, progress=not arguments.quiet)
    for file in report.files:
        kinds = ", ".join(str(kind).removeprefix("torch.") for kind in file.dtypes)
        known = f"{file.published} as published" if file.published else "not one of the published files"
        say(f"{file.path}: {file.tensors} tensors in {kinds}, {file.bytes} bytes, all finite")
        print(f"  SHA-256 {file.sha256}: {known}")
    config = report.config
    told = f"according to {report.by or 'a probe'}; it returns {report.noise_response:.2f} of pure noise"
    print(f"a {report.layout} that holds {config.name}, complete; it predicts {config.noise.prediction} {told}")


def convert_weights(arguments: argparse.Namespace) -> None:
    """Write a checkpoint in either layout, with concepts in it if there are any."""
    read, target = [arguments.source, arguments.config, *(file.path for file in arguments.concept)], arguments.target
    if arguments.layout == "folder" and arguments.overwrite:
        raise ValueError("--overwrite replaces a file, never a folder; leave it out and name a new folder")
    if arguments.layout == "ldm" and not target.is_dir():
        check_free([target], read, arguments.overwrite, "another name writes elsewhere")
    import torch

    from weights.convert import convert

    convert(
        arguments.source,
        target,
        arguments.layout,
        getattr(torch, arguments.dtype) if arguments.dtype else None,
        arguments.config,
        arguments.prediction,
        _with_concepts(arguments.concept),
    )
    say(target)


def _with_concepts(files: Sequence[types.ScaledFile]) -> "Callable[[StableDiffusion], StableDiffusion] | None":
    if not files:
        return None
    concepts = read_concepts(files)

    def change(model: "StableDiffusion") -> "StableDiffusion":
        put_concepts(model, concepts)
        if new := ", ".join(model.tokenizer.added):
            raise ValueError(
                f"the concept's {new} is no word of the vocabulary, and no checkpoint can say what it means"
            )
        return model

    return change


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_cache(parser)


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="sd21, sd21-base, sd15, sd2-inpainting, sd15-inpainting or paint-by-example"
    )
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="URL",
        help="a server laid out as huggingface.co, or the file itself; several are tried in order "
        "(default: PHOTOSWAP_MIRROR, else the hub)",
    )
    parser.add_argument(
        "--offline", action="store_true", help="never ask the network (also: PHOTOSWAP_OFFLINE=1, HF_HUB_OFFLINE=1)"
    )
    _add_cache(parser)


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache", type=types.path, metavar="DIR", help="the folder of checkpoints (default: PHOTOSWAP_WEIGHTS)"
    )


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file, a folder, or a name, see list")
    add_what_it_is(parser)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a file, a folder, or a name")
    parser.add_argument("target", metavar="DST", type=types.path, help="a new .safetensors file, or a new folder")
    parser.add_argument(
        "--layout",
        required=True,
        choices=("ldm", "folder"),
        help="ldm: the original single file; folder: unet/, vae/, text_encoder/ and what other tools read beside them",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: as they are, bit for bit)")
    add_overwrite(parser)
    add_concepts(parser)
    add_what_it_is(parser)


ACTIONS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]] = {
    "list": (_add_list, list_weights),
    "fetch": (_add_fetch, fetch_weights),
    "verify": (_add_verify, verify_weights),
    "convert": (_add_convert, convert_weights),
}
