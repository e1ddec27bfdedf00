"""The numbers of learning a concept that all methods have."""

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from models.prompts import a_photo_of
from train.ranges import (
    CHOICES,
    COUNTS,
    NUMBERS,
    ConceptDtype,
    Moments,
    RateSchedule,
    Resampling,
    check_choice,
    check_number,
)

# Settings that say how far to go and what to show on the way; a resumed run may differ in them.
FREE = ("steps", "checkpoint_every", "sample_every", "sample_prompt", "concept_dtype", "gradient_checkpointing")


@dataclass(frozen=True)
class LearnConfig:
    """How a concept is learnt, by whatever method. Raises ValueError for values that make no sense.

    What the methods' papers and scripts agree on stands here as a default; what they do not, in its own class.
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
