"""Which token of one prompt is which token of another, and which tokens are the subject's.

Prompts that differ in a word or two usually differ in length, so column j of a cross-attention map means different
words in each. Prompt-to-Prompt (arXiv:2208.01626) aligns them with Needleman and Wunsch's algorithm, as is done here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.prompts import article
from models.tokenizer import Tokenizer, subject_tokens, unpadded

__all__ = ["Alignment", "align", "align_prompts", "align_words", "replace_word", "subject_tokens"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """How a target's cross maps are made of the source's and its own: A := A_source @ taken + A_target * own.

    taken: (length length), the share of the source's column (first) in the target's (second). own: (length,), the share
    that the target keeps of its own column.
    """

    taken: Tensor
    own: Tensor

    def reweighted(self, columns: Sequence[int], weight: float) -> "Alignment":
        """The same with some of the target's columns multiplied; rows are not rescaled."""
        scale = torch.ones_like(self.own)
        scale[list(columns)] = weight
        return Alignment(self.taken * scale, self.own * scale)


def align(source: Sequence[int], target: Sequence[int], length: int = 77) -> Alignment:
    """Align two unpadded id sequences, start and end tokens included.

    Needleman-Wunsch with gap 0, match 1 and mismatch -1, so that a replaced token is two gaps, never a pair: a longest
    common subsequence. Among equals the earliest of repeated target tokens is the shared one. Padding is paired by
    index. Raises ValueError for a sequence longer than length.
    """
    if max(len(source), len(target)) > length:
        raise ValueError(f"prompts of {len(source)} and {len(target)} tokens; want at most {length}: shorten them")
    common = _common_lengths(source, target)
    taken, own = torch.eye(length), torch.zeros(length)
    taken[:, : len(target)] = 0
    i, j = len(source), len(target)
    while j > 0:
        if common[i][j] == common[i][j - 1]:
            j -= 1
            own[j] = 1
        elif common[i][j] == common[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            taken[i, j] = 1
    return Alignment(taken, own)


def align_prompts(tokenizer: Tokenizer, source: str, target: str) -> Alignment:
    """Align two prompts as the tokenizer cuts them."""
    length = tokenizer(source).shape[1]
    return align(unpadded(tokenizer, source), unpadded(tokenizer, target), length)


def align_words(tokenizer: Tokenizer, source: str, target: str) -> Alignment:
    """Align two prompts of as many words, word for word: all of A is the source's (Prompt-to-Prompt's replacement).

    The columns of a replaced word are the source's for it: one for one where it takes as many tokens, else each token
    of the target's gets an equal share of the sum of the source's. After the last replaced word columns pair by the
    target's index, as in the published code. Raises ValueError for prompts of different numbers of words.
    """
    words = [prompt.split(" ") for prompt in (source, target)]
    if len(words[0]) != len(words[1]):
        raise ValueError(
            f'"{source}" has {len(words[0])} words and "{target}" {len(words[1])}; replacement wants as many: '
            "align by tokens instead"
        )
    length, needed = tokenizer.length, max(len(tokenizer.words(prompt)) + 2 for prompt in (source, target))
    if needed > length:
        raise ValueError(f"prompts of {needed} tokens; want at most {length}: shorten them")
    taken, i, j, left = torch.zeros(length, length), 1, 1, sum(a != b for a, b in zip(*words, strict=True))
    taken[0, 0] = 1
    for a, b in zip(*words, strict=True):
        n, m = (len(tokenizer.words(word)) for word in (a, b))
        if a == b:
            n = m
            taken[range(i if left else j, (i if left else j) + n), range(j, j + m)] = 1
        else:
            taken[i : i + n, j : j + m] = torch.eye(n) if n == m else 1 / m
            left -= 1
        i, j = i + n, j + m
    taken[range(j, length), range(j, length)] = 1
    return Alignment(taken, torch.zeros(length))


def replace_word(prompt: str, old: str, new: str) -> str:
    """The prompt with the word old, wherever it stands as a word, replaced by new: P_s into P_t.

    Case does not matter. An article right before it becomes that of the new word: "an owl", "a sks owl". Raises
    ValueError when the word is not there.
    """

    def put(found: re.Match[str]) -> str:
        before = found["article"]
        return before[0] + article(new)[1:] + found["space"] + new if before else new

    word = rf"(?<!\w)(?:(?P<article>an?)(?P<space>\s+))?(?<!\w){re.escape(old)}(?!\w)"
    replaced, count = re.subn(word, put, prompt, flags=re.IGNORECASE)
    if not old or not count:
        raise ValueError(f'the prompt "{prompt}" lacks the word "{old}": write it there, or name another')
    return replaced


def _common_lengths(source: Sequence[int], target: Sequence[int]) -> list[list[int]]:
    """common[i][j]: length of the longest common subsequence of source[:i] and target[:j]."""
    common = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, a in enumerate(source):
        for j, b in enumerate(target):
            common[i + 1][j + 1] = common[i][j] + 1 if a == b else max(common[i][j + 1], common[i + 1][j])
    return common
