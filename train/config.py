"""The numbers of learning a concept: what all methods have, and what each has of its own. train/presets.py has sets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, cast, get_args

from models.prompts import article
from train.presets import PRESETS
from weights.records import listed, quoted

# Settings that say how far to go and what to show on the way; a resumed run may differ in them.
FREE = ("steps", "checkpoint_every", "sample_every", "sample_prompt", "concept_dtype")

Resampling = Literal["lanczos", "bilinear"]
ConceptDtype = Literal["float32", "float16"]
Layers = Literal["attention", "linear"]
CHOICES = {"resampling": Resampling, "concept_dtype": ConceptDtype, "layers": Layers}

# The least and the largest of each number; where the least is excluded, EXCLUDED says so. Far beyond what anyone
# learns with, and near enough that memory and time do not run out over a slip of the finger.
COUNTS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("steps", "token_steps", "checkpoint_every", "sample_every"), (0, 1_000_000)),
    **dict.fromkeys(("batch", "accumulate", "class_batch"), (1, 1024)),
    "class_pictures": (1, 10_000),
    "class_steps": (1, 1000),
    "seed": (0, 2**63 - 1),
    "size": (1, 16384),
    "rank": (1, 1024),
}
NUMBERS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("learning_rate", "text_learning_rate", "token_learning_rate", "epsilon"), (0.0, 1.0)),
    "weight_decay": (0.0, 1.0),
    "clip": (0.0, 1e6),
    "prior_weight": (0.0, 1000.0),
    "class_guidance": (0.0, 100.0),
    "attention_loss": (0.0, 1000.0),
    "min_snr": (0.0, 1e6),
    "alpha": (0.0, 1e6),
}
EXCLUDED = ("steps", "learning_rate", "text_learning_rate", "token_learning_rate", "epsilon", "min_snr", "alpha")


@dataclass(frozen=True)
class LearnConfig:
    """How a concept is learnt, by whatever method. Raises ValueError for values that make no sense.

    What the methods' papers and scripts agree on stands here as a default; what they do not, in their own class below.
    Two things are ours: the middle square of a picture rather than a random one, so that it is encoded once, and
    Lanczos rather than bilinear resampling.

    class_word: what kind of thing the subject is, for instance "cat". token: the word that comes to mean this one.
    instance_prompt, class_prompt: None makes "a photo of a sks cat" and "a photo of a cat" of them.
    steps: of the optimizer; each sees batch x accumulate pictures of the subject and as many of the class.
    scale_learning_rate: the rates are for one picture, and multiplied by how many a step sees. clip: largest norm of
    the gradient, 0 for none.
    prior_weight: of the class pictures' loss; 0 learns without class pictures. class_pictures: how many the model
    draws, with class_steps sampler steps at class_guidance, class_batch at once.
    gradient_checkpointing: activations are recomputed rather than kept. bfloat16: networks run under autocast, also
    where they draw class pictures and samples; weights stay float32. min_snr: gamma of min-SNR, None for none.
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
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    epsilon: float = 1e-8
    clip: float = 1.0
    prior_weight: float = 1.0
    class_pictures: int = 200
    class_steps: int = 50
    class_guidance: float = 7.5
    class_batch: int = 4
    gradient_checkpointing: bool = False
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
        for name in (*COUNTS, *NUMBERS):
            if hasattr(self, name):
                _check(name, getattr(self, name))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; want two numbers in [0, 1)")
        for name, options in CHOICES.items():
            if hasattr(self, name) and getattr(self, name) not in get_args(options):
                raise ValueError(f"{name} is {getattr(self, name)!r}; want one of {', '.join(get_args(options))}")

    @property
    def wants_masks(self) -> bool:
        """Whether the references' masks have a say."""
        return self.mask_loss or self.attention_loss > 0

    @property
    def instance_text(self) -> str:
        """The prompt of the reference pictures."""
        return self.instance_prompt or f"a photo of {article(self.token)} {self.token} {self.class_word}"

    @property
    def class_text(self) -> str:
        """The prompt of the class pictures."""
        return self.class_prompt or f"a photo of {article(self.class_word)} {self.class_word}"

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
        return {"method": self.method, **asdict(self), "betas": list(self.betas)}


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


CONFIGS: Mapping[str, type[LearnConfig]] = {config.method: config for config in (DreamBoothConfig, LoRAConfig)}


OPTIONAL = ("text_learning_rate", "min_snr", "size", "alpha")  # None has a meaning


def _check(name: str, value: Any) -> None:
    """Raise ValueError unless the value of that setting is a number of its kind and within its range."""
    if value is None and name in OPTIONAL:
        return
    whole = name in COUNTS
    low, high = COUNTS[name] if whole else NUMBERS[name]
    fits = type(value) is int or (type(value) is float and not whole)
    if not fits or not low <= value <= high or (value == low and name in EXCLUDED):
        noun = "a whole number" if whole else "a number"
        at_least = f"above {low:g}" if name in EXCLUDED else f"from {low:g}"
        raise ValueError(f"{name} is {quoted(value)}; want {noun} {at_least} to {_spelled(high)}")


def _spelled(high: float) -> str:
    return f"{high:,}" if high < 2**31 else "2^63 - 1"


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
