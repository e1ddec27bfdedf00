"""The numbers of learning a concept: what all methods have, and what each has of its own. train/presets.py has sets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, cast

from models.prompts import a_photo_of
from train.presets import PRESETS
from train.ranges import (
    CHOICES,
    COUNTS,
    NUMBERS,
    ConceptDtype,
    Layers,
    Moments,
    RateSchedule,
    Resampling,
    check_choice,
    check_number,
)
from train.templates import TEMPLATES, ZOOMS
from weights.records import listed, quoted

# Settings that say how far to go and what to show on the way; a resumed run may differ in them.
FREE = ("steps", "checkpoint_every", "sample_every", "sample_prompt", "concept_dtype", "gradient_checkpointing")


@dataclass(frozen=True)
class LearnConfig:
    """How a concept is learnt, by whatever method. Raises ValueError for values that make no sense.

    What the methods' papers and scripts agree on stands here as a default; what they do not, in their own class below.
    Two things are ours: the middle square of a picture rather than a random one, so that it is encoded once, and
    Lanczos rather than bilinear resampling.

    class_word: what kind of thing the subject is, for instance "cat". token: the word that comes to mean this one.
    instance_prompt, class_prompt: None makes "a photo of a sks cat" and "a photo of a cat" of them.
    steps: of the optimizer; each sees batch x accumulate pictures of the subject and as many of the class.
    scale_learning_rate: the rates are for one picture, and multiplied by how many a step sees. rate_schedule:
    "constant", or "linear", falling to zero over `steps`, which a resumed run then has to keep. clip: largest norm of
    the gradient, 0 for none. moments: what AdamW keeps its two in, see train/small_moments.py for 8bit.
    prior_weight: of the class pictures' loss; 0 learns without class pictures. class_pictures: how many the model
    draws, with class_steps sampler steps at class_guidance, class_batch at once.
    gradient_checkpointing: activations are recomputed rather than kept, the same to the last bit; None, where they do
    not fit. bfloat16: networks run under autocast, also where they draw class pictures and samples; weights stay
    float32. min_snr: gamma of min-SNR, None for none.
    mask_loss: what lies outside the references' masks is no error. attention_loss: weight of the token's attention
    lying where the masks are (train/break_a_scene.py; 0.01 as published). Either wants masks.
    random_crop: another square of a picture each time, rather than its middle. resampling: how pictures are resized.
    mirror: add each picture mirrored. sample_latents: draw latents from the autoencoder's Gaussian, rather than take
    its mean. size: side in pixels, None for the model's own. checkpoint_every, sample_every: in steps, 0 for never;
    sample_prompt: None takes instance_prompt. concept_dtype: of the concept's file.
    """

    method: ClassVar[str] = ""

    class_word: str
    token: str = "sks"
    instance_prompt: str | None = None
    class_prompt: str | None = None
    steps: int = 800
    batch: int = 1
    accumulate: int = 1
    learning_rate: float = 1e-6
    scale_learning_rate: bool = False
    rate_schedule: RateSchedule = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    epsilon: float = 1e-8
    clip: float = 1.0
    moments: Moments = "float32"
    prior_weight: float = 1.0
    class_pictures: int = 200
    class_steps: int = 50
    class_guidance: float = 7.5
    class_batch: int = 4
    gradient_checkpointing: bool | None = None
    bfloat16: bool = False
    min_snr: float | None = None
    mask_loss: bool = False
    attention_loss: float = 0.0
    random_crop: bool = False
    resampling: Resampling = "lanczos"
    mirror: bool = False
    sample_latents: bool = True
    size: int | None = None
    seed: int = 0
    checkpoint_every: int = 0
    sample_every: int = 0
    sample_prompt: str | None = None
    concept_dtype: ConceptDtype = "float32"

    def __post_init__(self) -> None:
        for name in ("class_word", "token"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty; the prompt 'a photo of a {{token}} {{class_word}}' wants a word")
        if self.token not in self.instance_text:
            raise ValueError(f"instance_prompt {self.instance_text!r} lacks the token {self.token!r}; put it in")
        names = [field.name for field in fields(self)]
        for name in (*COUNTS, *NUMBERS):
            if name in names:
                check_number(name, getattr(self, name))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; want two numbers in [0, 1)")
        for name in CHOICES:
            if name in names:
                check_choice(name, getattr(self, name))

    @property
    def wants_masks(self) -> bool:
        """Whether the references' masks have a say."""
        return self.mask_loss or self.attention_loss > 0

    @property
    def instance_text(self) -> str:
        """The prompt of the reference pictures."""
        return self.instance_prompt or a_photo_of(f"{self.token} {self.class_word}")

    @property
    def class_text(self) -> str:
        """The prompt of the class pictures."""
        return self.class_prompt or a_photo_of(self.class_word)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The word of every subject that is learnt."""
        return (self.token,)

    @property
    def instance_texts(self) -> tuple[str, ...]:
        """Every prompt that reference pictures are shown under, by the index that rows have for it."""
        return (self.instance_text,)

    @property
    def class_texts(self) -> tuple[str, ...]:
        """Every prompt that class pictures are shown under, by the index that rows have for it; empty without them."""
        return (self.class_text,) if self.prior_weight else ()

    def rate(self, said: float | None = None) -> float:
        """The rate that the optimizer takes. said: one that is said for a part, None for learning_rate."""
        seen = self.batch * self.accumulate if self.scale_learning_rate else 1
        return (self.learning_rate if said is None else said) * seen

    def settings(self) -> dict[str, Any]:
        """Every number of the configuration, as JSON holds it, and the method's name."""
        said = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"method": self.method, **said}


@dataclass(frozen=True)
class DreamBoothConfig(LearnConfig):
    """DreamBooth: all of the U-Net learns, and of the text encoder.

    The defaults are Photoswap's for SD 2.1 (arXiv:2305.18286, section 4): AdamW at 1e-6, 800 steps, U-Net and text
    encoder. What the paper leaves open is as in its authors' later script (200 class pictures, batch 1, prior weight 1)
    and in the training script that this one calls: AdamW's other numbers, clipping, latents drawn from the Gaussian.
    PRESETS has the training script's own defaults as "script".

    text_learning_rate: None takes learning_rate. token_steps: of all steps the first teach the token's embedding alone,
    at token_learning_rate (train/token_first.py); that wants train_text_encoder.
    """

    method: ClassVar[str] = "dreambooth"

    train_text_encoder: bool = True
    text_learning_rate: float | None = None
    token_steps: int = 0
    token_learning_rate: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_steps and not self.train_text_encoder:
            raise ValueError("token_steps teach the token's embedding first; that wants train_text_encoder")


@dataclass(frozen=True)
class LoRAConfig(LearnConfig):
    """LoRA: a product of two thin matrices learns beside every layer that is named.

    The defaults are those of the example that diffusers gives for its script train_dreambooth_lora.py: rank 4, 1e-4,
    500 steps, attention alone, no class pictures.

    rank: columns of one factor and rows of the other. alpha: what is added is alpha / rank x up @ down; None takes the
    rank. layers: "attention", the projections of every attention layer, as in diffusers; "linear", all that is linear
    in the transformers, as in kohya's sd-scripts. train_text_encoder: its layers too. text_learning_rate: None takes
    learning_rate.
    """

    method: ClassVar[str] = "lora"

    steps: int = 500
    learning_rate: float = 1e-4
    prior_weight: float = 0.0
    rank: int = 4
    alpha: float | None = None
    layers: Layers = "attention"
    train_text_encoder: bool = False
    text_learning_rate: float | None = None


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


CONFIGS: Mapping[str, type[LearnConfig]] = {
    config.method: config for config in (DreamBoothConfig, LoRAConfig, TextualInversionConfig, CustomDiffusionConfig)
}


def learn_config(method: str, preset: str, class_word: str, **changes: Any) -> LearnConfig:
    """The configuration of a method (CONFIGS) by the name of a preset (PRESETS), a model's or "script", with changes.

    Raises ValueError for an unknown name, and for a change of a setting that the method does not have.
    """
    if method not in CONFIGS:
        raise ValueError(f"no method {quoted(method)} to learn by; there are {', '.join(CONFIGS)}")
    presets, config = PRESETS[method], CONFIGS[method]
    if preset not in presets:
        raise ValueError(
            f"no preset for {preset!r} in {method}; there are {', '.join(presets)}, or fill {config.__name__} yourself"
        )
    known = [field.name for field in fields(config)]
    if strange := [name for name in changes if name not in known]:
        raise ValueError(f"{method} has no setting {listed(strange)}; it has {', '.join(known)}")
    return config(class_word, **{**presets[preset], **changes})


def dreambooth_config(name: str, class_word: str, **changes: Any) -> DreamBoothConfig:
    """The configuration of DreamBooth by that preset, a model's or "script", with changes.

    Raises ValueError for an unknown name.
    """
    return cast(DreamBoothConfig, learn_config("dreambooth", name, class_word, **changes))
