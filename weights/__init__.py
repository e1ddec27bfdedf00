"""Official checkpoints -> our networks, and back: `weights.load.load` and `.save`; `fingerprint` tells models apart."""

from weights.fingerprint import fingerprint

__all__ = ["fingerprint"]
