"""Ways of painting inside a mask: the networks trained for it, and what they are compared with, one file each.

How to write one: a frozen dataclass of its settings (`photoswap/paint_method.py`) that says in `wants` and `heeds` what
it is told by, in `usual_model` which model it runs on, and in `paint` how the picture comes about; or, as a
`SampledMethod`, in `sample` the latents. Then the class goes into PAINT_METHODS, and the command line and the benchmark
know it.
"""

from collections.abc import Mapping
from types import MappingProxyType

from photoswap.paint_method import Canvas, PaintMethod, Told

from .blended import BlendedByImage, BlendedByText
from .denoise import PasteAndDenoise
from .network import PaintSettings
from .paste import PasteAndHarmonise

PAINT_METHODS: Mapping[str, type[PaintMethod]] = MappingProxyType(
    {
        "network": PaintSettings,
        "blended-text": BlendedByText,
        "blended-image": BlendedByImage,
        "paste-harmonise": PasteAndHarmonise,
        "paste-denoise": PasteAndDenoise,
    }
)

__all__ = [
    "PAINT_METHODS",
    "BlendedByImage",
    "BlendedByText",
    "Canvas",
    "PaintMethod",
    "PaintSettings",
    "PasteAndDenoise",
    "PasteAndHarmonise",
    "Told",
]
