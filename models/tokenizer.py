"""Prompts to token ids, over CLIP's byte-pair vocabulary as open_clip ships it (arXiv:2103.00020, section 2.4).

The vocabulary and the splitting are open_clip's; framing and padding are here, because the official models differ in
them: SD 2.x fills up with token 0, SD 1.x with the end-of-text token. The padding of the empty prompt alone decides
what classifier-free guidance pushes away from.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor


@cache
def _vocabulary() -> Any:
    # open_clip takes seconds to import, and only those who tokenize should wait for it
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


class Tokenizer:
    """Texts to ids (b length): start of text, the words' pieces, end of text, padding.

    padding: "zero" (SD 2.x) or "eot" (SD 1.x). length: of every row, 77 in all published models. added: words that the
    vocabulary lacks, with the ids that stand for each, one or more; they are found wherever they
    stand alone.
    """

    def __init__(
        self,
        padding: Literal["zero", "eot"] = "zero",
        length: int = 77,
        added: Mapping[str, Sequence[int]] = MappingProxyType({}),
    ) -> None:
        if padding not in ("zero", "eot"):
            raise ValueError(f"padding is {padding!r}; use 'zero' (SD 2.x) or 'eot' (SD 1.x)")
        if length < 2:
            raise ValueError(f"length is {length}; start and end of text alone take 2")
        self.padding = padding
        self.length = length
        self.added = {word.lower(): tuple(ids) for word, ids in added.items()}

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Ids of one text or several, int64 (b length); warns, naming the words lost, when a text is too long."""
        rows = list(map(self._row, [texts] if isinstance(texts, str) else texts))
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), self.length)

    def words(self, text: str) -> list[tuple[int, str]]:
        """The pieces of a text, (id, piece), before framing and cutting; piece i lands in column i + 1 of the row.

        Text is lower-cased. A piece that ends a word ends in "</w>"; bytes outside ASCII appear as the printable
        stand-ins of the vocabulary.
        """
        vocabulary = _vocabulary()
        if not self.added:
            return [(token, vocabulary.decoder[token]) for token in vocabulary.encode(text)]
        pieces: list[tuple[int, str]] = []
        for part in self._split(text):
            if part.lower() in self.added:
                pieces += [(token, f"{part.lower()}</w>") for token in self.added[part.lower()]]
            else:
                pieces += [(token, vocabulary.decoder[token]) for token in vocabulary.encode(part)]
        return pieces

    def piece(self, spelling: str) -> int | None:
        """The id of a piece of the vocabulary that ends no word, by its spelling; None where there is none."""
        found: int | None = _vocabulary().encoder.get(spelling)
        return found

    def _split(self, text: str) -> list[str]:
        """The text cut before and after every added word."""
        words = "|".join(map(re.escape, sorted(self.added, key=len, reverse=True)))
        return re.split(rf"(?<!\w)({words})(?!\w)", text, flags=re.IGNORECASE)

    def _row(self, text: str) -> list[int]:
        vocabulary = _vocabulary()
        ids = [token for token, _ in self.words(text)]
        room = self.length - 2
        if len(ids) > room:
            lost = vocabulary.decode([token for token in ids[room:] if token in vocabulary.decoder]).strip()
            warnings.warn(
                f"the prompt takes {len(ids)} tokens and only {room} fit: lost {lost!r}; shorten it", stacklevel=3
            )
        framed = [vocabulary.sot_token_id, *ids[:room], vocabulary.eot_token_id]
        # 0 is the token "!" too: open_clip pads with it, and SD 2.x was trained on that
        fill = vocabulary.eot_token_id if self.padding == "eot" else 0
        return framed + [fill] * (self.length - len(framed))


def subject_tokens(tokenizer: Tokenizer, prompt: str, word: str) -> list[int]:
    """The columns of a word, or of a phrase, wherever it stands in the prompt.

    Compared by token ids, so case and neighbouring punctuation do not matter. Raises ValueError when the prompt, as
    far as the text encoder reads it, does not hold the word.
    """
    wanted = [token for token, _ in tokenizer.words(word)]
    ids = unpadded(tokenizer, prompt)
    starts = [i for i in range(1, len(ids) - len(wanted)) if wanted and ids[i : i + len(wanted)] == wanted]
    if not starts:
        raise ValueError(f'the prompt "{prompt}" lacks the subject\'s word "{word}": write it there, or name another')
    return sorted({start + offset for start in starts for offset in range(len(wanted))})


def unpadded(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The prompt's ids with the start and end tokens but no padding."""
    return tokenizer._row(prompt)[: len(tokenizer.words(prompt)) + 2]
