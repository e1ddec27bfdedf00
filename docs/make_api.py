"""Make pages of every public name from its docstring: python -W error docs/make_api.py --out site

pdoc makes them (extra `docs`). The names that `photoswap` loads only when they are asked for are asked for first.
"""

import argparse
from pathlib import Path

import pdoc

import photoswap

# but for the page, which is no library, and whose layout wants Gradio to be imported
ROOMS = ("photoswap", "models", "samplers", "train", "weights", "!photoswap.web")


def make(out: Path) -> None:
    """Write the pages into a folder, and index.html beside them."""
    for name in photoswap.__all__:
        setattr(photoswap, name, getattr(photoswap, name))
    pdoc.render.configure(footer_text="Photoswap, built by hand", search=True)
    pdoc.pdoc(*ROOMS, output_directory=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("site"), help="the folder for the pages (default: site)")
    arguments = parser.parse_args()
    make(arguments.out)
    print(arguments.out / "index.html")


if __name__ == "__main__":
    main()
