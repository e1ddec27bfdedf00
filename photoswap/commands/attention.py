"""Show what attention sees: which places belong together, and where each word looks.

Give a picture, its inversion, or a prompt alone, which is drawn from --seed.
The folder --out receives M.png, the leading components of the self-attention
map M, averaged over layers and steps (the paper's Fig. 3); A.png, where each
word of the prompt looks, over the picture; and attention.json. --at adds a row
for single steps (Fig. 4), counted from 1, the noisiest. Memory does not grow
with the number of steps.

examples:
  photoswap attention dog.jpg --prompt "a photo of a dog on grass"
  photoswap attention inversion.safetensors --at 1,10,25,50
  photoswap attention --prompt "a photo of a dog on grass" --seed 3 --quantity A --layers up.1,up.2
"""

import argparse
import json
from typing import TYPE_CHECKING, Any

from photoswap.commands import arguments as types
from photoswap.commands.common import add_common, add_sampling, load_model, refuse
from photoswap.commands.invert import add_inversion
from photoswap.commands.outputs import check_folder, check_free, say, write_together
from photoswap.commands.sources import check_source, open_source, prompt_of, read_by

if TYPE_CHECKING:
    from models.stable_diffusion import StableDiffusion
    from photoswap.figures.attention import SeenMaps
    from photoswap.inversion import Inversion

SEEN_M, SEEN_A, SEEN_RECORD = "M.png", "A.png", "attention.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap attention`."""
    parser.add_argument(
        "source", nargs="?", type=types.path, help="the picture, or its inversion; without it, one is drawn"
    )
    parser.add_argument("--prompt", type=types.words, help="what is in the picture (an inversion knows its own)")
    parser.add_argument("--quantity", choices=("M", "A"), help="one of them alone (default: both)")
    parser.add_argument(
        "--at",
        type=types.list_of(types.whole(1, types.MOST_STEPS)),
        default=[],
        metavar="STEPS",
        help="a row for each of these steps too, counted from 1: 1,10,25,50",
    )
    parser.add_argument(
        "--layers",
        type=types.list_of(types.site_prefix),
        default=[],
        metavar="SITES",
        help="only those whose address begins so, as in swap.json: up.1,up.2.0 (default: all)",
    )
    parser.add_argument(
        "--resolution",
        type=types.whole(2, 128),
        metavar="N",
        help="places of the longer side that layers are resized to (default: 64, or fewer where the model has fewer)",
    )
    parser.add_argument(
        "--components", type=types.whole(1, 20), metavar="N", help="how many components of M to show (default: 6)"
    )
    add_inversion(parser)
    add_sampling(parser)
    add_common(parser, "attention", "the folder for M.png, A.png and attention.json")


def run(arguments: argparse.Namespace) -> None:
    """Invert if need be, look, and write pictures and numbers together."""
    check(arguments)
    from photoswap.figures.attention import look, word_columns
    from photoswap.figures.drawing import rows_grid

    source = open_source(arguments)
    prompt = prompt_of(arguments, source)
    model = load_model(arguments)
    inversion = source.inverted(arguments, model, prompt)
    if beyond := [step for step in arguments.at if step > inversion.steps]:
        raise ValueError(f"--at {beyond[0]}: there are {inversion.steps} steps; want 1..{inversion.steps}")
    rows = _Rows(arguments, model, inversion, word_columns(model.tokenizer, prompt))
    seen = look(
        model,
        inversion,
        prompt=prompt,
        quantities=maps_asked(arguments),
        layers=arguments.layers,
        resolution=arguments.resolution,
        at=[step - 1 for step in arguments.at],
        on_step=lambda one: rows.add(one, f"step {one.steps[0] + 1}"),
        progress=not arguments.quiet,
    )
    rows.add(seen, f"{inversion.steps} steps", first=True)
    contents: dict[Any, Any] = {arguments.out / name: rows_grid(made) for name, made in rows.made.items() if made}
    record: dict[str, Any] = {"model": model.config.name, "prompt": prompt, "inversion": inversion.method}
    record |= {"steps": inversion.steps, "layers": arguments.layers, "grid": list(seen.grid), "rows": rows.numbers}
    contents[arguments.out / SEEN_RECORD] = json.dumps(record, indent=2) + "\n"
    write_together(contents)
    for path in contents:
        say(path)


class _Rows:
    """The rows of both grids and the numbers beside them, made as soon as something is seen: maps are not kept."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        model: "StableDiffusion",
        inversion: "Inversion",
        words: list[tuple[str, tuple[int, ...]]],
    ) -> None:
        from photoswap.drawing import decoded
        from photoswap.figures.attention import COMPONENTS
        from photoswap.figures.drawing import cell
        from photoswap.sizes import take
        from photoswap.staging import decoded_size

        size, latents = decoded_size(model, inversion), inversion.trajectory[:1].to(model.device)
        self.picture = cell(take(inversion.source, size) if inversion.source else decoded(model, latents))
        self.words, self.count = words, arguments.components or COMPONENTS
        self.made: dict[str, list[Any]] = {SEEN_M: [], SEEN_A: []}
        self.numbers: list[dict[str, Any]] = []

    def add(self, seen: "SeenMaps", label: str, first: bool = False) -> None:
        """One more row, or the first."""
        from photoswap.figures.drawing import component_row, component_shares, heat_row

        place = 0 if first else len(self.numbers)
        numbers: dict[str, Any] = {"of": label}
        if seen.M is not None:
            components, values = seen.components(self.count)
            self.made[SEEN_M].insert(place, component_row(self.picture, components, label))
            numbers["M"] = {"share of each component": component_shares(values, seen)}
        if seen.A is not None:
            self.made[SEEN_A].insert(place, heat_row(self.picture, seen, self.words, label))
            heats = [(word, seen.heat(columns)) for word, columns in self.words]
            numbers["A"] = [{"word": word, "mean": float(h.mean()), "largest": float(h.max())} for word, h in heats]
        self.numbers.insert(place, numbers)


def maps_asked(arguments: argparse.Namespace) -> tuple[Any, ...]:
    """Which maps are asked for."""
    return (arguments.quantity,) if arguments.quantity else ("M", "A")


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for flags that would change nothing, and for what may not be written."""
    check_source(arguments)
    if arguments.quantity == "A":
        refuse(arguments, "with --quantity A, which has none", "components")
    check_folder(arguments.out)
    names = [*(f"{name}.png" for name in maps_asked(arguments)), SEEN_RECORD]
    check_free([arguments.out / name for name in names], read_by(arguments), arguments.overwrite)
