"""Several subjects of one picture (Photoswap, arXiv:2305.18286, Fig. 6a): one swap after another, each in its mask.

Two learnt concepts are two complete networks, both of which may call their subject "sks": no one network holds them,
and rows of different networks cannot look at each other, so a loop over both at once would be two loops. So the first
subject is swapped, the result inverted by the second's network, and the second swapped. As each swap keeps all that is
outside its own mask, latents and pixels, the second leaves alone what the first put in; and one network is in memory
at a time. A network knows only its own concept: in its prompts the subjects swapped before it go by plain words, the
class they are of.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .tokens import replace_word

JOINER = "\u2060"  # has no width and no meaning: keeps a word just written from being found


class Swapping(NamedTuple):
    """What is swapped: word, what the prompt calls it; target, what takes its place; plain, that in common words."""

    word: str
    target: str
    plain: str


class Turn(NamedTuple):
    """Source and target prompt of one swap, and the words of its subject in each."""

    source: str
    target: str
    source_word: str
    target_word: str


def turns(prompt: str, subjects: Sequence[Swapping]) -> list[Turn]:
    """The prompts of one swap after another. Raises ValueError for a prompt that lacks a subject."""
    found, before = [], prompt
    for subject in subjects:
        source, target = (replace_word(before, subject.word, _hidden(text)) for text in (subject.word, subject.target))
        found.append(Turn(_shown(source), _shown(target), subject.word, subject.target))
        before = replace_word(before, subject.word, _hidden(subject.plain))
    return found


def _hidden(text: str) -> str:
    """The text with every word parted by a joiner, so that no word of a later turn is found in it."""
    return " ".join(word[:1] + JOINER + word[1:] for word in text.split(" "))


def _shown(text: str) -> str:
    return text.replace(JOINER, "")
