"""Types of the values on the command line: text in, a checked value out, one sentence for what is out of bounds.

The bounds are generous: they part what somebody may want from what can only be a slip, would never end or would fill
every memory there is. What a model or a schedule makes of a value is checked where it is used.
"""

import argparse
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MOST_STEPS = 1000  # of every published noise schedule, which has no more to sample at
SIDE, AREA = 4096, 2048 * 2048  # pixels: seven times the area that SD 2.1 was trained on
SEED = 2**63 - 1  # what torch takes, with room for one seed for each picture
PROMPT = 10_000  # characters, of which some 300 fit into 77 tokens
SCALE = 100  # of a concept; beyond 2 hardly anybody means it
MOST_VALUES = 100  # of a list
SETTING = 200  # characters of a value, too few for JSON to nest without end
QUOTED = 80  # characters of a value that are said again


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of a whole number from low to high."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,40}", text.strip()) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{quote(text)} is out of bounds; want a whole number, {low}..{high}")
        return int(text)

    return convert


def number(low: float, high: float, above: bool = False) -> Callable[[str], float]:
    """The type of a finite number from low to high. above: low itself is excluded."""
    wanted = f"above {low:g} and up to {high:g}" if above else f"{low:g}..{high:g}"

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):  # NaN too
            raise argparse.ArgumentTypeError(f"{quote(text)} is out of bounds; want a number {wanted}")
        return value

    return convert


def size(text: str) -> tuple[int, int]:
    """ "768" or "768x512" as (width, height)."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise argparse.ArgumentTypeError(f"{quote(text)} is no size; want 768 or 768x512")
    width, height = int(parts[0]), int(parts[-1])
    if max(width, height) > SIDE or width * height > AREA:
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is too large; want sides up to {SIDE} and no more than {AREA} pixels in all"
        )
    return width, height


def shard(text: str) -> tuple[int, int]:
    """ "0/4" as (0, 4): the first of four parts."""
    if not re.fullmatch("[0-9]{1,6}/[0-9]{1,6}", text) or not int(text.split("/")[0]) < int(text.split("/")[1]):
        raise argparse.ArgumentTypeError(f"{quote(text)} is no part of a whole; want I/N, such as 0/4 to 3/4")
    number, total = text.split("/")
    return int(number), int(total)


def prompt(text: str) -> str:
    """A text for the model: what could be typed at a terminal, of a length that means something."""
    if len(text) > PROMPT:
        raise argparse.ArgumentTypeError(f"{len(text)} characters are no prompt; want at most {PROMPT}")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise argparse.ArgumentTypeError(f"{quote(text)} is not in the terminal's encoding; try another locale")
    return text


def words(text: str) -> str:
    """A prompt, or a part of one, that may not be empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; want a word or more")
    return prompt(text)


def setting(text: str) -> tuple[str, Any]:
    """ "name=value" as a name and a value: the one that JSON has for it, or the text where it is none."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier() or len(value) > SETTING:
        raise argparse.ArgumentTypeError(f"{quote(text)} is no setting; want SETTING=VALUE, in {SETTING} characters")
    try:
        return name, json.loads(value, parse_constant=_no_number)
    except json.JSONDecodeError:
        return name, value


def list_of(convert: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """The type of values that commas part, each once."""

    def several(text: str) -> list[Any]:
        values = [convert(part.strip()) for part in text.split(",")]
        if len(values) > MOST_VALUES:
            raise argparse.ArgumentTypeError(f"{quote(text)} has {len(values)} values; want at most {MOST_VALUES}")
        return list(dict.fromkeys(values))

    return several


def site_prefix(text: str) -> str:
    """The beginning of a site's address: "up", "up.1", "up.1.0"."""
    if not re.fullmatch(r"(down|mid|up)(\.[0-9]{1,2}){0,2}", text):
        raise argparse.ArgumentTypeError(f"{quote(text)} is no place of layers; want down, mid, up, up.1 or up.1.0")
    return text


def setting_values(text: str) -> tuple[str, list[Any]]:
    """ "name=value,value" as a name and the values that JSON has for them, or the texts where they are none."""
    name, _ = setting(text)
    written = text.partition("=")[2]
    try:
        values = json.loads(f"[{written}]", parse_constant=_no_number)
    except json.JSONDecodeError:
        values = written.split(",")
    if not values or "" in values:
        raise argparse.ArgumentTypeError(f"{quote(text)} has no values; want {name}=VALUE,VALUE")
    return name, [one for i, one in enumerate(values) if one not in values[:i]]


def _no_number(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(f"{text} is no number; want a finite one")


def path(text: str) -> Path:
    """A path, with a home folder for its ~, which no shell expands in --out=~/a.png."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{quote(text)} is no path; want the name of a file or folder")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"there is no home folder for {quote(text)}; write it out") from None


@dataclass(frozen=True)
class ScaledFile:
    """The file of a concept, and how much of it: FILE or FILE:SCALE."""

    path: Path
    scale: float = 1.0

    def __str__(self) -> str:
        return str(self.path) if self.scale == 1 else f"{self.path}:{self.scale:g}"


def scaled_file(text: str) -> ScaledFile:
    """A path, or a path and a number after a colon, unless a file is called just so."""
    head, colon, tail = text.rpartition(":")
    try:
        float(tail)
    except ValueError:
        return ScaledFile(path(text))
    if not colon or not head or path(text).exists():
        return ScaledFile(path(text))
    return ScaledFile(path(head), number(-SCALE, SCALE)(tail))


def quote(text: str) -> str:
    """The value in quotation marks, or its beginning if it is long."""
    return repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}...")
