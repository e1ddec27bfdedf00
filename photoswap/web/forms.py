"""What the controls say, as the command line that repeats it.

A job on the page is made from the words of its command, parsed by the command's own parser: so the line that the page
shows to copy cannot differ from what was done, and a mistake is told in the same sentence as in a terminal.
"""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LearnForm:
    """What section 1 says. references: a folder. None leaves it to the preset."""

    references: Path
    class_word: str
    token: str = "sks"
    steps: int | None = None
    sample_every: int = 0
    method: str = "dreambooth"

    def words(self, out: Path, resume: bool = False) -> list[str]:
        """The command that learns it, into the folder `out`."""
        return [
            *("learn", str(self.references), "--class", self.class_word, "--token", self.token),
            *("--method", self.method),
            *_given("--steps", self.steps),
            *_given("--sample-every", self.sample_every or None),
            *(["--resume"] if resume else []),
            *("--out", str(out)),
        ]


@dataclass(frozen=True)
class InvertForm:
    """What section 2 says. concept: FILE or FILE:SCALE, of what will be swapped in. guidance: None for the model's."""

    source: Path
    prompt: str
    concept: str | None = None
    inversion: str = "direct"
    steps: int = 50
    guidance: float | None = None

    def words(self, out: Path) -> list[str]:
        """The command that inverts it, into the file `out`."""
        from photoswap.commands.invert import GUIDED

        asked = self.guidance if self.inversion in GUIDED else None
        return [
            *("invert", str(self.source), "--prompt", self.prompt),
            *_given("--concept", self.concept),
            *("--inversion", self.inversion, "--steps", str(self.steps)),
            *_given("--guidance", asked),
            *("--out", str(out)),
        ]


@dataclass(frozen=True)
class SwapForm:
    """What section 3 says. inversion: its file. target: empty for the concept's own words.

    counts: the method's lambdas, by name; None leaves them to the preset. blend: the threshold, None for the method's
    own. settings: NAME=VALUE, one a line. seed: of methods that draw noise.
    """

    inversion: Path
    subject: str
    concept: str | None = None
    target: str = ""
    method: str = "photoswap"
    preset: str = "paper"
    counts: tuple[tuple[str, int], ...] | None = None
    guidance: float | None = None
    blend: float | None = None
    align: str = "tokens"
    mask: Path | None = None
    adain: bool = False
    seed: int = 0
    settings: str = ""

    def words(self, out: Path) -> list[str]:
        """The command that swaps it, into the folder `out`."""
        return [
            *("swap", str(self.inversion), "--subject", self.subject),
            *_given("--concept", self.concept),
            *_given("--target", self.target.strip() or None),
            *_given("--mask", self.mask),
            *(["--adain"] if self.adain else []),
            *self._method_words(),
            *_given("--guidance", self.guidance),
            *("--out", str(out)),
        ]

    def _method_words(self) -> list[str]:
        from photoswap.methods import METHODS

        photoswap, kind = self.method == "photoswap", METHODS.get(self.method)
        words = ["--preset", self.preset] if photoswap else ["--method", self.method]
        for name, steps in self.counts or ():
            words += [f"--{name}", str(steps)] if name in ("phi", "M", "A") else ["--set", f"{name}={steps}"]
        if photoswap and dict(self.counts or {}).get("A") != 0 and self.align != "tokens":
            words += ["--align", self.align]
        for line in filter(None, map(str.strip, self.settings.splitlines())):
            words += _given("--set", line)
        words += _given("--blend", self.blend)
        return words + _given("--seed", self.seed if kind and kind.draws else None)


def command_line(words: Sequence[str]) -> str:
    """The line to type, with quotation marks where a shell wants them."""
    return shlex.join(["photoswap", *words])


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """What the command makes of its words. Raises ValueError in the command's own sentence."""
    from photoswap.__main__ import build_parser

    return build_parser().parse_args([*words])


def model_words(arguments: argparse.Namespace) -> list[str]:
    """The flags for the model that the page was started with, for every command it shows."""
    words = ["--model", arguments.model]
    for name in ("config", "prediction", "device"):
        words += _given(f"--{name}", getattr(arguments, name))
    return words + _given("--dtype", arguments.dtype)


def _given(flag: str, value: object) -> list[str]:
    """A flag and its value, or nothing for None; joined where the value could be taken for a flag."""
    if value is None:
        return []
    return [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
