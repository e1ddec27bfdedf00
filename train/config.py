"""The numbers of DreamBooth, as published and for the miniature."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Settings that say how far to go and what to show on the way; a resumed run may differ in them.
FREE = ("steps", "checkpoint_every", "sample_every", "sample_prompt", "concept_dtype")


@dataclass(frozen=True)
class DreamBoothConfig:
    """How a concept is learnt. The defaults are Photoswap's for SD 2.1 (arXiv:2305.18286, section 4).

    They are AdamW at 1e-6, 800 steps, U-Net and text encoder; the rest is as in the published training script. Raises
    ValueError for values that make no sense.

    class_word: what kind of thing the subject is, for instance "cat". token: the word that comes to mean this one.
    instance_prompt, class_prompt: None makes "a photo of a sks cat" and "a photo of a cat" of them.
    steps: of the optimizer; each sees batch x accumulate pictures of the subject and as many of the class.
    text_learning_rate: None takes learning_rate. clip: largest norm of the gradient, 0 for none.
    prior_weight: of the class pictures' loss; 0 learns without class pictures. class_pictures: how many the model
    draws, with class_steps sampler steps at class_guidance, class_batch at once.
    checkpointing: activations are recomputed rather than kept. bfloat16: networks run under autocast, weights stay
    float32. min_snr: gamma of min-SNR weighting, None for none.
    random_crop: another square of a picture each time, rather than its middle. mirror: add each picture mirrored.
    sample_latents: draw latents from the autoencoder's Gaussian, rather than take its mean. size: side in pixels, None
    for the model's own. checkpoint_every, sample_every: in steps, 0 for never; sample_prompt: None takes
    instance_prompt. concept_dtype: of the concept's file, "float32" or "float16".
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
    checkpointing: bool = False
    bfloat16: bool = False
    min_snr: float | None = None
    random_crop: bool = False
    mirror: bool = False
    sample_latents: bool = True
    size: int | None = None
    seed: int = 0
    checkpoint_every: int = 0
    sample_every: int = 0
    sample_prompt: str | None = None
    concept_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("class_word", "token"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty; the prompt 'a photo of a {{token}} {{class_word}}' wants a word")
        if self.token not in self.instance_text:
            raise ValueError(f"instance_prompt {self.instance_text!r} lacks the token {self.token!r}; put it in")
        for name in ("steps", "batch", "accumulate", "class_pictures", "class_steps", "class_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
        for name in ("clip", "prior_weight", "weight_decay", "checkpoint_every", "sample_every", "class_guidance"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; want 0 or more")
        for name in ("learning_rate", "text_learning_rate", "epsilon", "min_snr"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; want a number above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; want two numbers in [0, 1)")

        if self.concept_dtype not in ("float32", "float16"):
            raise ValueError(f"concept_dtype is {self.concept_dtype!r}; want 'float32' or 'float16'")

    @property
    def instance_text(self) -> str:
        """The prompt of the reference pictures."""
        return self.instance_prompt or f"a photo of {_article(self.token)} {self.token} {self.class_word}"

    @property
    def class_text(self) -> str:
        """The prompt of the class pictures."""
        return self.class_prompt or f"a photo of {_article(self.class_word)} {self.class_word}"

    def settings(self) -> dict[str, Any]:
        """Every number of the configuration, as JSON holds it."""
        return {**asdict(self), "betas": list(self.betas)}


def _article(word: str) -> str:
    return "an" if word[0].lower() in "aeiou" else "a"


# The follow-up script of Photoswap's authors has 2e-6 for SD 1.5. The miniature's numbers are for 4 references on a
# CPU of two cores, where 350 steps take about a minute and a half.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sd21": {},
    "sd21-base": {},
    "sd15": {"learning_rate": 2e-6},
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


def preset(name: str, class_word: str, **changes: Any) -> DreamBoothConfig:
    """The configuration for a model by its name (PRESETS), with changes. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"no preset for {name!r}; there are {', '.join(PRESETS)}, or fill DreamBoothConfig yourself")
    return DreamBoothConfig(class_word, **{**PRESETS[name], **changes})
