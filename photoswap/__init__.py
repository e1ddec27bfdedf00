"""The method: the only room that knows "source" and "target".

Photoswap (Gu et al., NeurIPS 2023, arXiv:2305.18286): denoise a source and a target side by side from the same noise,
and let the target take the source's attention while its layout is decided. What the ten lines of the README need can be
imported from here by name, and is only loaded then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from photoswap.drawing import generate, generate_latents
    from photoswap.inversion import invert_image as invert
    from photoswap.methods import METHODS, Photoswap, official
    from photoswap.painters import PaintSettings, paint
    from photoswap.pipeline import SwapRequest, SwapResult, swap, swap_all
    from train.concepts import apply_concept as apply
    from train.config import dreambooth_config
    from train.learn import learn
    from weights.load import load

__all__ = [
    "METHODS",
    "PaintSettings",
    "Photoswap",
    "SwapRequest",
    "SwapResult",
    "apply",
    "dreambooth_config",
    "generate",
    "generate_latents",
    "invert",
    "learn",
    "load",
    "official",
    "paint",
    "swap",
    "swap_all",
]

_PLACES = {
    "METHODS": "photoswap.methods",
    "PaintSettings": "photoswap.painters",
    "Photoswap": "photoswap.methods",
    "SwapRequest": "photoswap.pipeline",
    "SwapResult": "photoswap.pipeline",
    "apply": "train.concepts:apply_concept",
    "dreambooth_config": "train.config",
    "generate": "photoswap.drawing",
    "generate_latents": "photoswap.drawing",
    "invert": "photoswap.inversion:invert_image",
    "learn": "train.learn",
    "load": "weights.load",
    "official": "photoswap.methods",
    "paint": "photoswap.painters",
    "swap": "photoswap.pipeline",
    "swap_all": "photoswap.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, own = _PLACES[name].partition(":")
    return getattr(import_module(module), own or name)
