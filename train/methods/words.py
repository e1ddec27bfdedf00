"""New words that learn: their rows stand beside a frozen token embedding, which never moves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from models.stable_diffusion import StableDiffusion
from train.concepts.apply import knowing, word_ids
from weights.records import quoted

PREFIX = "word/"


class LearningRows(nn.Module):
    """A token embedding with some rows of its own, which alone learn. ids: of the rows (n c), in their order."""

    def __init__(self, embedding: nn.Embedding, ids: Tensor, rows: list[nn.Parameter]) -> None:
        super().__init__()
        self.embedding, self.ids, self.rows = embedding, ids, nn.ParameterList(rows)

    @property
    def weight(self) -> Tensor:
        """The frozen rows."""
        return self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        matches = tokens[..., None] == self.ids
        found, which = matches.any(-1), matches.int().argmax(-1)
        states = self.embedding(tokens.masked_fill(found, 0))  # ids of new rows are beyond its end
        return torch.where(found[..., None], torch.cat(list(self.rows))[which].to(states), states)


@contextmanager
def learning_words(model: StableDiffusion, starts: Mapping[str, Tensor]) -> Iterator[dict[str, nn.Parameter]]:
    """The model with these words in its tokenizer and rows for them; yields the rows (n c) by "word/" and the word.

    starts: what each word's rows are at first. Afterwards embedding and tokenizer are again those that were there.
    """
    encoder, known = model.text_encoder, model.tokenizer
    embedding = encoder.token_embedding
    ids = word_ids(known, len(embedding.weight), {word: len(rows) for word, rows in starts.items()})
    rows = {f"{PREFIX}{word}": nn.Parameter(start.detach().clone()) for word, start in starts.items()}
    flat = torch.tensor([one for several in ids.values() for one in several], device=embedding.weight.device)
    try:
        encoder.token_embedding = cast(nn.Embedding, LearningRows(embedding, flat, list(rows.values())))
        model.tokenizer = knowing(known, ids)
        yield rows
    finally:
        encoder.token_embedding, model.tokenizer = embedding, known


def start_rows(model: StableDiffusion, word: str, count: int) -> Tensor:
    """Rows (count c) to begin with: those of a word of as many tokens, or that of a word of one, so many times.

    A spelling that is no word of one token may be a piece of the vocabulary, as "ktn" is. Raises ValueError else.
    """
    ids = [token for token, _ in model.tokenizer.words(word)]
    if len(ids) not in (1, count):
        if (piece := model.tokenizer.piece(word)) is None:
            raise ValueError(
                f"init_word {quoted(word)} is {len(ids)} tokens; want a word of {f'1 or {count}' if count > 1 else 1}, "
                "since its rows are what the new word begins with"
            )
        ids = [piece]
    return model.text_encoder.token_embedding.weight.detach()[ids * (count // len(ids))]
