"""What a setting of learning may be: the least and the largest of each number, and the options of each choice."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from weights.records import quoted

Resampling = Literal["lanczos", "bilinear"]
ConceptDtype = Literal["float32", "float16"]
Layers = Literal["attention", "linear"]
Moments = Literal["float32", "8bit"]
RateSchedule = Literal["constant", "linear"]
CHOICES = {
    "resampling": Resampling,
    "concept_dtype": ConceptDtype,
    "layers": Layers,
    "moments": Moments,
    "rate_schedule": RateSchedule,
}

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
    "tokens_per_word": (1, 70),
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
OPTIONAL = ("text_learning_rate", "min_snr", "size", "alpha")  # None has a meaning


def check_number(name: str, value: Any) -> None:
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


def check_choice(name: str, value: Any) -> None:
    """Raise ValueError unless the value of that setting is one of its options."""
    options = get_args(CHOICES[name])
    if value not in options:
        raise ValueError(f"{name} is {value!r}; want one of {', '.join(options)}")
