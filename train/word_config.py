"""The numbers of the methods that learn a new word: Textual Inversion and Custom Diffusion."""

from dataclasses import dataclass
from typing import ClassVar

from models.prompts import a_photo_of
from train.base_config import LearnConfig
from train.templates import TEMPLATES, ZOOMS
from weights.records import listed, quoted


@dataclass(frozen=True)
class TextualInversionConfig(LearnConfig):
    """Textual Inversion: the row of the token embedding that a new word means learns, and nothing else.

    The defaults are Photoswap's (arXiv:2305.18286, section 4): batch 4, 5e-4, 1000 steps. There are no class pictures:
    what they would hold on to does not move. The word alone stands for the subject, "a photo of a <new1>".

    templates: prompts with {} for the word; each picture is shown under another each time. instance_prompt, where
    given, is the only one. init_word: whose row the word begins with, one token, or as many as the word has; None
    takes class_word. tokens_per_word: how many rows the word has, one after another in the prompt.
    """

    method: ClassVar[str] = "textual-inversion"

    token: str = "<new1>"
    steps: int = 1000
    batch: int = 4
    learning_rate: float = 5e-4
    prior_weight: float = 0.0
    templates: tuple[str, ...] = TEMPLATES
    init_word: str | None = None
    tokens_per_word: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_word(self.token)
        if self.prior_weight:
            raise ValueError(
                f"prior_weight is {self.prior_weight}, and Textual Inversion moves nothing that pictures of the class "
                "could hold on to; leave it 0"
            )
        if not self.templates or not all("{}" in template for template in self.templates):
            raise ValueError(f"templates are {quoted(self.templates)}; want prompts with {{}} where the word stands")

    @property
    def instance_text(self) -> str:
        """The prompt that the concept is said to be learnt under: of the templates, the plainest."""
        return self.instance_prompt or f"a photo of a {self.token}"

    @property
    def instance_texts(self) -> tuple[str, ...]:
        """The templates, with the word in them."""
        if self.instance_prompt:
            return (self.instance_prompt,)
        return tuple(template.replace("{}", self.token) for template in self.templates)


@dataclass(frozen=True)
class Beside:
    """A subject learnt beside the first one, in the same run: its word, what kind of thing it is, its word's start."""

    token: str
    class_word: str
    init_word: str


@dataclass(frozen=True)
class CustomDiffusionConfig(LearnConfig):
    """Custom Diffusion: the keys and values of every cross-attention layer learn, and the row of a new word.

    The defaults are the authors' (arXiv:2212.04488, section 4, and their script) for one subject on one GPU: batch 2,
    500 steps at 1e-5 x batch, twice that with class pictures, each picture mirrored too. Their loss adds up the four
    channels of a latent where the subject is shown and averages them where the class is: a prior weight of 1 is one of
    1/4 here, where both are averaged. Two subjects took 1000 steps.

    init_word: whose row the word begins with; theirs is a piece that hardly any text has. zoom: show each picture at
    another size each time, smaller on plain grey or larger and cut, and say so in its prompt. also: more subjects,
    learnt in the same run. whole_attention: the layers' queries and outputs learn too, as the authors advise for faces
    (their code's "crossattn"; at 5e-6, from 15 to 20 pictures in 750 steps); what was learnt so cannot be merged.
    """

    method: ClassVar[str] = "custom-diffusion"

    token: str = "<new1>"
    steps: int = 500
    batch: int = 2
    learning_rate: float = 1e-5
    scale_learning_rate: bool = True
    mirror: bool = True
    prior_weight: float = 0.25
    init_word: str = "ktn"
    zoom: bool = True
    also: tuple[Beside, ...] = ()
    whole_attention: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for word in self.tokens:
            _check_word(word)
        if len(set(self.tokens)) < len(self.tokens):
            raise ValueError(f"the tokens are {listed(self.tokens)}; want another word for every subject")
        if self.also and (self.instance_prompt or self.class_prompt):
            raise ValueError(
                "instance_prompt and class_prompt are of one subject, and here are several; leave them out"
            )
        if self.zoom and self.random_crop:
            raise ValueError("random_crop cuts no picture that zoom shows at another size; leave one of them out")
        if self.wants_masks and (self.zoom or self.also):
            raise ValueError("masks are of one subject's pictures as they are; leave out zoom and other subjects")

    @property
    def tokens(self) -> tuple[str, ...]:
        """The word of every subject that is learnt."""
        return (self.token, *(one.token for one in self.also))

    @property
    def instance_texts(self) -> tuple[str, ...]:
        """For every subject its prompt, and with zoom those that say how large it is shown."""
        texts = [self.instance_text, *(a_photo_of(f"{one.token} {one.class_word}") for one in self.also)]
        return tuple(f"{prefix}{text}" for text in texts for prefix in (ZOOMS if self.zoom else ZOOMS[:1]))

    @property
    def class_texts(self) -> tuple[str, ...]:
        """The prompt of every class."""
        if not self.prior_weight:
            return ()
        return tuple(dict.fromkeys((self.class_text, *(a_photo_of(one.class_word) for one in self.also))))

    def rate(self, said: float | None = None) -> float:
        """The rate that the optimizer takes; pictures of the class count as pictures."""
        return super().rate(said) * (2 if self.scale_learning_rate and self.prior_weight else 1)


def _check_word(token: str) -> None:
    """Raise ValueError unless a prompt can hold the new word."""
    if len(token.split()) != 1 or token != token.strip():
        raise ValueError(f"token is {quoted(token)}, and a new word is one word; write it without spaces")
