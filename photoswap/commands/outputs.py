"""What the commands write: checked before any work is done, written together, and said in any terminal's encoding."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LONGEST_NAME = 240  # bytes of a file's name: most systems end at 255, and a temporary file's is ten longer
LOOKED_AT = 10_000  # files of a folder that is read, when looking for one that would be written over


def check_file(path: Path, suffixes: tuple[str, ...] = PICTURES) -> None:
    """Raise ValueError, before any work is done, unless a file of such a kind could be written there."""
    _check_names(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {path}: want a name that ends in {' or '.join(suffixes)}")
    _check_parents(path.parent)


def check_folder(path: Path) -> None:
    """Raise ValueError, before any work is done, unless files could be written into that folder."""
    _check_names(path)
    _check_parents(path)


def check_free(
    outputs: Sequence[Path],
    inputs: Iterable[Path | str | None],
    overwrite: bool,
    elsewhere: str = "--out writes elsewhere",
) -> None:
    """Raise ValueError when an output is one of the inputs, or is there already and is not to be overwritten.

    inputs: files and folders that the command reads; a str is a model, by its name too; None is one not given. The
    same file under another name, through a link for instance, is the same file. elsewhere: what to do instead.
    """
    there = [output for output in outputs if os.path.lexists(output)]
    if not there:
        return
    given = [name for name in inputs if name is not None]
    _check_apart(there, [Path(name) for name in given], elsewhere)
    for output in there:
        if not overwrite:
            raise ValueError(f"{output} is there already; --overwrite replaces it, {elsewhere}")
        if output.exists() and not output.is_file():
            raise ValueError(f"{output} is no ordinary file; {elsewhere}")
    models = [_model_file(name) for name in given if isinstance(name, str)]  # imports torch, so it comes last
    _check_apart(there, models, elsewhere)


def write_together(contents: "dict[Path, Image.Image | str | Callable[[Path], object]]") -> None:
    """Write pictures, texts and what writes itself: each complete, and none in its place before all are on the disk."""
    from weights.atomic import atomic, flush

    with ExitStack() as stack:
        places = {path: stack.enter_context(atomic(path)) for path in contents}
        for path, content in contents.items():
            if isinstance(content, str):
                places[path].write_text(content, encoding="utf-8")
            elif callable(content):
                content(places[path])
            else:
                content.save(places[path])
        for place in places.values():
            flush(place)


def say(text: object, stream: TextIO | None = None) -> None:
    """Print a line, with escapes for what the stream's encoding lacks: a name on the disk may be any bytes."""
    stream = stream or sys.stdout
    line, encoding = str(text), stream.encoding or "utf-8"
    try:
        line.encode(encoding, stream.errors or "strict")
    except UnicodeEncodeError:
        line = line.encode(encoding, "backslashreplace").decode(encoding)
    print(line, file=stream)


def _check_apart(outputs: Sequence[Path], read: Sequence[Path], elsewhere: str) -> None:
    for output in outputs:
        if given := next((given for given in read if _holds(given, output)), None):
            part = "" if given.is_file() else f", a part of {given}"
            raise ValueError(f"{output} is what is to be read{part}; {elsewhere}")


def _model_file(name_or_path: str) -> Path:
    """Where the model is read from, whether there is anything or not."""
    from weights.published import locate

    try:
        return locate(name_or_path)
    except ValueError:
        return Path(name_or_path)


def _holds(given: Path, output: Path) -> bool:
    """Whether an output that is there is the file given, or one in the folder given, by whatever name."""
    if not given.exists() or not output.exists():
        return False
    if given.is_file():
        return given.samefile(output)
    if given.resolve() in output.resolve().parents:
        return True
    return output.stat().st_nlink > 1 and any(file.samefile(output) for file in _files(given) if file.exists())


def _files(folder: Path) -> Iterator[Path]:
    """Files of a folder and of the folders in it, as far as a model or a set of pictures goes."""
    return islice(chain(folder.glob("*"), folder.glob("*/*")), LOOKED_AT)


def _check_names(path: Path) -> None:
    for name in path.parts:
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise ValueError(f"the name {name[:40]}... is too long for a file; choose another --out")


def _check_parents(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file, so nothing can be put into it; choose another --out")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"nothing may be written into {existing.absolute()}; choose another --out")
