"""A small network that says what a picture of the world shows: the eyes that samples and swaps are judged with."""

from train.recogniser.network import (
    ATTRIBUTES,
    JOINTS,
    WEIGHTS,
    Recogniser,
    Seen,
    load_recogniser,
    prepare,
    recognise,
)

__all__ = ["ATTRIBUTES", "JOINTS", "WEIGHTS", "Recogniser", "Seen", "load_recogniser", "prepare", "recognise"]
