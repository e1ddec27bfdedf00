"""The target's prompt from the source's inverted noise, and nothing else: what every other method is measured against.

Deterministic DDIM inversion and sampling (arXiv:2105.05233, appendix F; arXiv:2010.02502, eq. 12 with sigma = 0).
"""

from dataclasses import dataclass

from photoswap.method import Method


@dataclass(frozen=True, kw_only=True)
class Plain(Method):
    """Nothing is injected: the two pictures share where they start."""
