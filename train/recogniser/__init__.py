"""A small network that says what a picture of the world shows: the eyes that samples and swaps are judged with."""

from train.recogniser.network import (
    ATTRIBUTES,
    JOINTS,
    RECOGNISER_FILE,
    Recogniser,
    Seen,
    load_recogniser,
    prepare,
    recognise_subjects,
)

__all__ = [
    "ATTRIBUTES",
    "JOINTS",
    "RECOGNISER_FILE",
    "Recogniser",
    "Seen",
    "load_recogniser",
    "prepare",
    "recognise_subjects",
]
