"""The command line: arguments in, one call, files out. `photoswap COMMAND --help` explains each command."""

import argparse
import errno
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from photoswap.commands import COMMANDS

DESCRIPTION = "Swap the subject of a photo for one learnt from a few pictures, keeping pose and background."
EPILOG = """start here:
  photoswap demo                       learn a subject and swap it in, on the built-in miniature; about two minutes
with your own pictures:
  photoswap learn cat-photos/ --class cat --out my-cat
  photoswap swap dog.jpg --prompt "a photo of a dog on grass" --subject dog --concept my-cat/concept.safetensors
"""
MISTAKE, INTERRUPTED = 2, 130


class Parser(argparse.ArgumentParser):
    """A parser that reports mistakes as every other mistake is reported: by a ValueError of one sentence."""

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
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _tell(str(message))
            arguments = build_parser().parse_args(argv)
            arguments.run(arguments)
    except KeyboardInterrupt as interruption:
        _tell(str(interruption) or "interrupted; no file was left half-written")
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError) as error:
        if debug or not _is_mistake(error):
            raise
        _tell(_sentence(error))
        return MISTAKE
    return 0


def _is_mistake(error: Exception) -> bool:
    """Whether a caller can mend it: any ValueError or OSError, and asking for more memory than there is."""
    return not isinstance(error, RuntimeError) or type(error).__name__ == "OutOfMemoryError"


def _sentence(error: Exception) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return "the device has too little memory for this; try a smaller --size, --dtype bfloat16 or --device cpu"
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        if error.errno == errno.ENOSPC:
            return f"the disk is full{where}; make room, or write elsewhere with --out"
        return f"{error.strerror}{where}"
    return " ".join(str(error).split())


def _tell(sentence: str) -> None:
    print(f"photoswap: {sentence}", file=sys.stderr)


def _version() -> str:
    try:
        return version("photoswap")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "from source"


if __name__ == "__main__":
    sys.exit(main())
