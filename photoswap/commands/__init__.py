"""One module for each command: `add_arguments` says what it takes, `run` does it, its docstring is its help.

Networks are imported by `run`, so that help and mistakes in typing are answered at once.
"""

from photoswap.commands import (
    attention,
    demo,
    evaluate,
    generate,
    invert,
    learn,
    mask,
    methods,
    paint,
    swap,
    sweep,
    web,
    weights,
)

COMMANDS = {
    "demo": demo,
    "evaluate": evaluate,
    "generate": generate,
    "learn": learn,
    "invert": invert,
    "mask": mask,
    "attention": attention,
    "methods": methods,
    "paint": paint,
    "swap": swap,
    "sweep": sweep,
    "web": web,
    "weights": weights,
}
