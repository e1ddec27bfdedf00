"""Official checkpoints -> our networks, and back: `weights.load.load` and `.save`; `fingerprint` tells models apart."""

from weights.fingerprint import fingerprint, identify, mismatch, with_concepts

__all__ = ["fingerprint", "identify", "mismatch", "with_concepts"]
