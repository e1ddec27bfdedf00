"""List the methods: papers, settings, what is injected where and when, cost.

The sites are those of --model, whose weights are not needed if it has a name;
the steps and the size decide the rest. A row is one picture in one half of
guidance: two are the least that a step takes under guidance, and four what
source and target take where neither is known beforehand. What is counted is a
swap over a stored trajectory, as --inversion direct leaves it.

examples:
  photoswap methods
  photoswap methods masactrl --model sd21
  photoswap methods photoswap --steps 20
"""

import argparse

from photoswap.commands import arguments as types
from photoswap.commands.outputs import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `photoswap methods`."""
    parser.add_argument("name", nargs="?", help="one method alone")
    parser.add_argument(
        "--model",
        default="miniature",
        metavar="NAME",
        help="whose sites: miniature, sd21, sd21-base or sd15 (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=types.whole(1, types.MOST_STEPS),
        metavar="N",
        help="of the sampler (default: the method's, mostly 50)",
    )
    parser.add_argument("--size", type=types.size, metavar="WxH", help="pixels (default: the model's native square)")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")


def run(arguments: argparse.Namespace) -> None:
    """Print the list."""
    import torch

    from models.config import MODELS
    from models.unet import UNet
    from photoswap.listing import described
    from photoswap.methods import METHODS
    from photoswap.sizes import check_size

    if arguments.name is not None and arguments.name not in METHODS:
        raise ValueError(f"no method {arguments.name!r}; want one of {', '.join(METHODS)}")
    if arguments.model not in MODELS:
        raise ValueError(f"no model {arguments.model!r} is known by name; want one of {', '.join(MODELS)}")
    config = MODELS[arguments.model]
    w, h = arguments.size or (config.native_size, config.native_size)
    check_size((w, h), config.granularity)
    with torch.device("meta"):
        unet = UNet(config.unet)
    size = (h // config.vae.factor, w // config.vae.factor)
    chosen = {name: METHODS[name] for name in ([arguments.name] if arguments.name else METHODS)}
    methods = {name: kind.scaled(arguments.steps) if arguments.steps else kind() for name, kind in chosen.items()}
    say("\n\n".join(described(name, method, unet, config.noise, size) for name, method in methods.items()))
