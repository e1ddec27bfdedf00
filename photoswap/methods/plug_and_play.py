"""Plug-and-Play (Tumanyan et al., CVPR 2023, arXiv:2211.12572): queries and keys, and the features of one block.

Settings bear the names of MichalGeyer/pnp-diffusers. Its source is told nothing, stands at every step where its
inversion stood, and gives to both halves of guidance by one row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from models.hooks import Site
from photoswap.injections import Injection
from photoswap.method import Method, check_shares

FEATURES = (Site("up", 1, 1, "features"),)


def from_decoder_layer_4(site: Site) -> bool:
    """The eight of the way up that it injects: all but the first of the coarsest."""
    return site >= Site("up", 1, 1, "self")


@dataclass(frozen=True, kw_only=True)
class PlugAndPlay(Method):
    """Queries and keys for a share of the steps, residual features for another."""

    injected: ClassVar = ("pnp_attn_t", "pnp_f_t")
    pnp_attn_t: float = 0.5
    pnp_f_t: float = 0.8
    negative_prompt: str = "ugly, blurry, black, low res, unrealistic"
    source_prompt: str | None = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "pnp_attn_t", "pnp_f_t")

    def injections(self, step: int) -> Iterator[Injection]:
        if step < int(self.steps * self.pnp_attn_t):
            yield Injection("queries and keys", from_decoder_layer_4)
        if step < int(self.steps * self.pnp_f_t):
            yield Injection("features", FEATURES)
