"""The command line: arguments in, one call, files out. `photoswap COMMAND --help` explains each command."""

import argparse
import errno
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from photoswap.commands import COMMANDS
from photoswap.commands.common import UNTIL_THE_END
from photoswap.commands.outputs import say

DESCRIPTION = "Swap the subject of a photo for one learnt from a few pictures, keeping pose and background."
EPILOG = """start here:
  photoswap demo                       learn a subject and swap it in, on the built-in miniature; under a minute
with your own pictures:
  photoswap learn cat-photos/ --class cat --out my-cat
  photoswap swap dog.jpg --prompt "a photo of a dog on grass" --subject dog --concept my-cat/concept.safetensors
"""
MISTAKE, INTERRUPTED = 2, 130
LONGEST, LONGEST_WORD = 600, 200  # characters of a sentence, and of a word in it: a path, or what was typed
TOLD_BY_NOW = 15.0  # seconds, in which the first of several processes has told and all are ended
NO_MEMORY = re.compile("out of memory|not enough memory|allocate memory|bad_alloc|Invalid buffer size", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """A parser that reports mistakes as every other mistake is reported: by a ValueError of one sentence."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, which would take --steps=-- for --steps without a value."""
        if flag := next((arg for arg in args or () if re.fullmatch("--[A-Za-z-]+=--", arg)), None):
            self.error(f"argument {flag[:-3]}: '--' is no value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        wanted = message.replace("the following arguments are required: COMMAND", f"want one of {', '.join(COMMANDS)}")
        raise ValueError(f"{wanted} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, every command with its own help."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser("photoswap", description=DESCRIPTION, epilog=EPILOG, formatter_class=layout, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"photoswap {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        text = command.__doc__ or ""
        head, _, rest = text.partition("\n")
        sub = commands.add_parser(
            name, help=head, description=head, epilog=rest.strip("\n"), formatter_class=layout, allow_abbrev=False
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 2 for a mistake of the caller's, told in one sentence, or 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _warn(str(message))
            arguments = build_parser().parse_args(argv)
            with UNTIL_THE_END:
                arguments.run(arguments)
    except KeyboardInterrupt as interruption:
        _tell(str(interruption) or "interrupted; no file was left half-written")
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if "--debug" in argv or not is_mistake(error):
            raise
        _tell(sentence_for(error))
        return MISTAKE
    return 0


def is_mistake(error: Exception) -> bool:
    """Whether a caller can mend it: any ValueError or OSError, and asking for more memory than there is."""
    return not isinstance(error, RuntimeError) or _lacks_memory(error)


def _lacks_memory(error: Exception) -> bool:
    """Whether memory ran out: the GPU's, torch's on the CPU, which has no exception of its own, numpy's or Python's."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error)))


def sentence_for(error: Exception) -> str:
    """What to say of a mistake."""
    if _lacks_memory(error):
        return "there is too little memory for this; try a smaller --size or --batch, or --dtype bfloat16"
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        if error.errno == errno.ENOSPC:
            return f"the disk is full{where}; make room, or write elsewhere with --out"
        return f"{error.strerror}{where}"
    return str(error)


def _warn(sentence: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # all that torchrun starts warn of the same
        say(f"photoswap: {_shortened(sentence)}", sys.stderr)


def _tell(sentence: str) -> None:
    if _first_to_tell():
        say(f"photoswap: {_shortened(sentence)}", sys.stderr)


def _first_to_tell() -> bool:
    """Whether no other of the processes that torchrun started together tells the same.

    torchrun ends them all as soon as one has ended, so one that is not the first waits for that. Where they do not
    know each other yet they have most likely made the same mistake, and the first of them tells it; one that is still
    there afterwards has made one of its own.
    """
    if (rank := os.environ.get("RANK")) is None:
        return True
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        time.sleep(TOLD_BY_NOW * (rank != "0"))
        return True
    first = distributed.distributed_c10d._get_default_store().add("photoswap/told", 1) == 1
    time.sleep(TOLD_BY_NOW * (not first))
    return first


def _shortened(sentence: str) -> str:
    """One line of bounded length, of characters that a terminal shows, whatever was quoted."""
    words = [_middle_out(word, LONGEST_WORD) for word in sentence.split()]
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(words))
    return _middle_out(line, LONGEST)


def _middle_out(text: str, length: int) -> str:
    """The text, or its beginning and its end, which says what to do."""
    return text if len(text) <= length else f"{text[: length * 2 // 3 - 3]}...{text[-length // 3 :]}"


def _version() -> str:
    try:
        return version("photoswap")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "from source"


if __name__ == "__main__":
    sys.exit(main())
