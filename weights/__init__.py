"""Official checkpoints -> our networks, and back."""

from weights.load import load, rename, save, to_ldm

__all__ = ["load", "rename", "save", "to_ldm"]
