"""The numbers of DreamBooth: Photoswap's, those of the published training script, and the miniature's."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from models.prompts import article
from weights.records import quoted

# Settings that say how far to go and what to show on the way; a resumed run may differ in them.
FREE = ("steps", "checkpoint_every", "sample_every", "sample_prompt", "concept_dtype")

Resampling = Literal["lanczos", "bilinear"]
ConceptDtype = Literal["float32", "float16"]

# The least and the largest of each number; where the least is excluded, EXCLUDED says so. Far beyond what anyone
# learns with, and near enough that memory and time do not run out over a slip of the finger.
COUNTS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("steps", "checkpoint_every", "sample_every"), (0, 1_000_000)),
    **dict.fromkeys(("batch", "accumulate", "class_batch"), (1, 1024)),
    "class_pictures": (1, 10_000),
    "class_steps": (1, 1000),
    "seed": (0, 2**63 - 1),
    "size": (1, 16384),
}
NUMBERS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("learning_rate", "text_learning_rate", "epsilon"), (0.0, 1.0)),
    "weight_decay": (0.0, 1.0),
    "clip": (0.0, 1e6),
    "prior_weight": (0.0, 1000.0),
    "class_guidance": (0.0, 100.0),
    "min_snr": (0.0, 1e6),
}
EXCLUDED = ("steps", "learning_rate", "text_learning_rate", "epsilon", "min_snr")


@dataclass(frozen=True)
class DreamBoothConfig:
    """How a concept is learnt. Raises ValueError for values that make no sense.

    The defaults are Photoswap's for SD 2.1 (arXiv:2305.18286, section 4): AdamW at 1e-6, 800 steps, U-Net and text
    encoder. What the paper leaves open is as in its authors' later script (200 class pictures, batch 1, prior weight 1)
    and in the training script that this one calls: AdamW's other numbers, clipping, latents drawn from the Gaussian.
    Two things are ours: the middle square of a picture rather than a random one, so that it is encoded once, and
    Lanczos rather than bilinear resampling. PRESETS["script"] has the training script's own defaults instead.

    class_word: what kind of thing the subject is, for instance "cat". token: the word that comes to mean this one.
    instance_prompt, class_prompt: None makes "a photo of a sks cat" and "a photo of a cat" of them.
    steps: of the optimizer; each sees batch x accumulate pictures of the subject and as many of the class.
    text_learning_rate: None takes learning_rate. clip: largest norm of the gradient, 0 for none.
    prior_weight: of the class pictures' loss; 0 learns without class pictures. class_pictures: how many the model
    draws, with class_steps sampler steps at class_guidance, class_batch at once.
    gradient_checkpointing: activations are recomputed rather than kept. bfloat16: networks run under autocast, also
    where they draw class pictures and samples; weights stay float32. min_snr: gamma of min-SNR, None for none.
    random_crop: another square of a picture each time, rather than its middle. resampling: how pictures are resized.
    mirror: add each picture mirrored. sample_latents: draw latents from the autoencoder's Gaussian, rather than take
    its mean. size: side in pixels, None for the model's own. checkpoint_every, sample_every: in steps, 0 for never;
    sample_prompt: None takes instance_prompt. concept_dtype: of the concept's file.
    """

    class_word: str
    token: str = "sks"
    instance_prompt: str | None = None
    class_prompt: str | None = None
    steps: int = 800
    batch: int = 1
    accumulate: int = 1
    learning_rate: float = 1e-6
    text_learning_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    epsilon: float = 1e-8
    clip: float = 1.0
    train_text_encoder: bool = True
    prior_weight: float = 1.0
    class_pictures: int = 200
    class_steps: int = 50
    class_guidance: float = 7.5
    class_batch: int = 4
    gradient_checkpointing: bool = False
    bfloat16: bool = False
    min_snr: float | None = None
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
            _check(name, getattr(self, name))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; want two numbers in [0, 1)")
        for name, options in {"resampling": Resampling, "concept_dtype": ConceptDtype}.items():
            if getattr(self, name) not in get_args(options):
                raise ValueError(f"{name} is {getattr(self, name)!r}; want one of {', '.join(get_args(options))}")

    @property
    def instance_text(self) -> str:
        """The prompt of the reference pictures."""
        return self.instance_prompt or f"a photo of {article(self.token)} {self.token} {self.class_word}"

    @property
    def class_text(self) -> str:
        """The prompt of the class pictures."""
        return self.class_prompt or f"a photo of {article(self.class_word)} {self.class_word}"

    def settings(self) -> dict[str, Any]:
        """Every number of the configuration, as JSON holds it."""
        return {**asdict(self), "betas": list(self.betas)}


OPTIONAL = ("text_learning_rate", "min_snr", "size")  # None has a meaning


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


# "script": the defaults of the training script that DreamBooth is usually run with (diffusers'
# train_dreambooth.py) where they differ from Photoswap's; how many steps and the text encoder are its caller's choice.
# The follow-up script of Photoswap's authors has 2e-6 for SD 1.5. The miniature's numbers are for 4 references on a
# CPU of two cores, where 350 steps take about a minute and a half.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sd21": {},
    "sd21-base": {},
    "sd15": {"learning_rate": 2e-6},
    "script": {"learning_rate": 5e-6, "random_crop": True, "resampling": "bilinear", "class_pictures": 100},
    "miniature": {
        "learning_rate": 2.5e-4,
        "text_learning_rate": 5e-4,
        "steps": 350,
        "batch": 4,
        "mirror": True,
        "class_pictures": 24,
        "class_steps": 20,
        "class_guidance": 2.0,
        "class_batch": 12,
    },
}


def dreambooth_config(name: str, class_word: str, **changes: Any) -> DreamBoothConfig:
    """The configuration of that name (PRESETS), a model's or "script", with changes.

    Raises ValueError for an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset for {name!r}; there are {', '.join(PRESETS)}, or fill DreamBoothConfig yourself")
    return DreamBoothConfig(class_word, **{**PRESETS[name], **changes})
