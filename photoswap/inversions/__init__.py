"""How a source becomes the noise a swap starts from, one file a way, and the file that keeps it for many swaps.

A way is a function from a `Request` to an `Inverted`. What a swap makes of that is the `Inversion`'s to say: whether
the source is given its stored latents or sampled anew, and what guidance leads away from. Rows of the network that an
inversion in n steps takes, under guidance other than 1:

    ddim, direct, negative-prompt   n
    belm                            2 n
    edict                           4 n
    null-text                       n, then 2 n and up to 10 n more with their gradients
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from . import belm, ddim, direct, edict, negative_prompt, null_text
from .file import InversionName
from .request import Inverted, OnStep, Request

INVERSIONS: Mapping[InversionName, Callable[[Request], Inverted]] = MappingProxyType(
    {
        "direct": direct.invert,
        "null-text": null_text.invert,
        "negative-prompt": negative_prompt.invert,
        "ddim": ddim.invert,
        "edict": edict.invert,
        "belm": belm.invert,
    }
)

__all__ = ["INVERSIONS", "Inverted", "OnStep", "Request"]
