"""Learn, invert and swap in a browser, on this machine alone.

Opens a page at http://127.0.0.1:7860, or the first port that is free. Pictures
are added there or drawn, and every step of `photoswap learn`, `invert`, `mask`
and `swap` is a button; each result comes with the command line that makes it
again. What is made is kept in --out, a folder for each tab. Nothing leaves the
machine, and one job runs at a time. Ctrl-C ends it. Wants the extra `web`:
pip install 'photoswap[web]'.

examples:
  photoswap web
  photoswap web --model sd21-base --dtype bfloat16 --concept my-cat/concept.safetensors
"""

import argparse
from pathlib import Path

from photoswap.commands import arguments as types
from photoswap.commands.common import add_concepts, add_model
from photoswap.commands.outputs import check_folder, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap web`."""
    group = parser.add_argument_group("page")
    group.add_argument(
        "--port", type=types.whole(1, 65535), metavar="N", help="to listen at (default: 7860, or the first free one)"
    )
    group.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="to listen at; any but this machine's own lets others in, who may use it as you do (default: %(default)s)",
    )
    group.add_argument("--open", action="store_true", help="open it in the browser")
    add_concepts(group)
    group = parser.add_argument_group("common")
    add_model(group)
    group.add_argument(
        "--out",
        type=types.path,
        default=Path("photoswap-web"),
        metavar="PATH",
        help="the folder for what is made (default: %(default)s)",
    )
    group.add_argument("--debug", action="store_true", help="show where an error comes from")


def run(arguments: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    check_folder(arguments.out)
    from photoswap.web.server import serve

    try:
        serve(arguments, lambda address: say(f"the page is at {address} until Ctrl-C"))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"closed; what was made is in {arguments.out}") from None
