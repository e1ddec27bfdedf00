"""JSON to dataclasses, checked: names, types and ranges. Whatever else a text holds is a ValueError of one sentence."""

import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from models.config import AnyConfig, ModelConfig, PaintConfig
from weights.quoting import listed, quoted, shown

LONGEST_TEXT = 2**20  # the longest JSON text read, in characters

Limits = Mapping[str, tuple[float, float]]
T = TypeVar("T")


class _WrongTypeError(ValueError):
    """A value is of another type than wanted; where several types may be, the next is tried."""


def parse(cls: type[T], data: object, limits: Limits = types.MappingProxyType({}), name: str = "") -> T:
    """Build a dataclass from what a JSON text held, by its type hints, nested dataclasses included.

    limits: field name to the least and the largest value, or length of a text or tuple; those not named are counts, 0
    to 2^31 - 1, finite numbers, texts of up to 2,000 characters and tuples of up to 1,000 items. Raises ValueError
    for a name that is missing or unknown, a value of another type or out of range, and what the dataclass refuses.
    """
    return _built(cls, data, limits, name)


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError for one that is too long, nested too deep, or no JSON."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"its text has {len(text)} characters; want at most {LONGEST_TEXT}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its text is no JSON ({shown(error, 100)})") from None


# Where a configuration asks for more, building it would take for ever; every published model is far inside.
CONFIG_LIMITS: Limits = {
    "name": (1, 200),
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels"), (1, 256)),
    **dict.fromkeys(("channels", "head_channels", "context_channels", "width"), (1, 16384)),
    **dict.fromkeys(("multipliers", "res_blocks", "mlp_ratio"), (1, 64)),
    **dict.fromkeys(("heads", "groups", "mapper_heads", "patch"), (1, 1024)),
    "size": (1, 4096),
    "mapper_blocks": (1, 64),
    "attention_levels": (0, 64),
    "depth": (0, 64),
    "scale_factor": (1e-6, 1e6),
    "vocabulary": (1, 2**20),
    **dict.fromkeys(("layers", "stored_layers"), (1, 256)),
    "length": (2, 4096),
    **dict.fromkeys(("beta_start", "beta_end"), (0.0, 1.0)),
    "train_steps": (2, 100_000),
    "offset": (0, 1000),
    **dict.fromkeys(("native_size", "granularity"), (1, 16384)),
}


def parse_config(text: str, where: str | Path) -> AnyConfig:
    """The model configuration that a JSON text holds. where: named in the ValueError raised for anything else."""
    try:
        data = parse_json(text)
        if isinstance(data, dict) and "image" in data:
            return parse(PaintConfig, data, CONFIG_LIMITS)
        return parse(ModelConfig, data, CONFIG_LIMITS)
    except ValueError as error:
        raise ValueError(f"{shown(where)} holds no usable model configuration: {error}; pass the config") from None


def _built(wanted: Any, value: Any, limits: Limits, name: str) -> Any:
    """The value as the type wanted, checked."""
    if is_dataclass(wanted) and isinstance(wanted, type):
        return _record(wanted, value, limits, name)
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return _one_of(inner, value, limits, name)
    if origin is Literal:
        if isinstance(value, str) and value in inner:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return _items(inner, value, limits, name)
    elif origin in (Mapping, dict) or wanted is dict:
        return _free(value, name)
    elif wanted is type(None):
        if value is None:
            return None
    elif wanted is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            _within(value, limits.get(name, (-math.inf, math.inf)), name)
            return float(value)
    elif type(value) is wanted:
        if wanted is int:
            _within(value, limits.get(name, (0, 2**31 - 1)), name)
        elif wanted is str:
            _text(value, limits.get(name, (0, 2000)), name)
        return value
    raise _WrongTypeError(f"{name} is {quoted(value)}; want {_spelled(wanted)}")


def _record(cls: type, value: Any, limits: Limits, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name or 'its text'} is {quoted(value)}; want names and values")
    known = {f.name: f for f in fields(cls) if f.init}
    wanted = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    lacking, unknown = [n for n in wanted if n not in value], [n for n in value if n not in known]
    if lacking or unknown:
        what = [f"lacks {listed(lacking)}"] * bool(lacking) + [f"does not know {listed(unknown)}"] * bool(unknown)
        raise ValueError(f"{name or 'its text'} {' and '.join(what)}")
    hints = get_type_hints(cls)
    return cls(**{n: _built(hints[n], value[n], limits, n) for n in known if n in value})


def _one_of(options: Iterable[Any], value: Any, limits: Limits, name: str) -> Any:
    for option in options:
        try:
            return _built(option, value, limits, name)
        except _WrongTypeError:
            continue
    raise _WrongTypeError(f"{name} is {quoted(value)}; want {' or '.join(_spelled(option) for option in options)}")


def _items(inner: tuple[Any, ...], value: Any, limits: Limits, name: str) -> tuple[Any, ...]:
    endless = inner[-1] is Ellipsis
    if len(value) > 1000 or (not endless and len(value) != len(inner)):
        raise ValueError(f"{name} has {len(value)} values; want {'at most 1000' if endless else len(inner)}")
    return tuple(_built(inner[0 if endless else i], one, limits, name) for i, one in enumerate(value))


def _free(value: Any, name: str, depth: int = 4) -> Any:
    """Any JSON, its numbers finite, its texts and lists of bounded length, nested a little."""
    if depth < 0:
        raise ValueError(f"{name} is nested too deep")
    if depth == 4 and not isinstance(value, Mapping):
        raise ValueError(f"{name} is {quoted(value)}; want names and values")
    if isinstance(value, Mapping | list | tuple):
        if len(value) > 1000:
            raise ValueError(f"{name} has {len(value)} values; want at most 1000")
        if isinstance(value, Mapping):
            for key in value:
                _text(key, (0, 200), name)
            return {key: _free(one, name, depth - 1) for key, one in value.items()}
        return [_free(one, name, depth - 1) for one in value]
    if isinstance(value, str):
        _text(value, (0, 2000), name)
    elif isinstance(value, int | float):
        _within(value, (-(2**63), 2**64) if isinstance(value, int) else (-math.inf, math.inf), name)
    elif value is not None:
        raise ValueError(f"{name} holds {quoted(value)}, which is no JSON")
    return value


def _within(value: float, limits: tuple[float, float], name: str) -> None:
    low, high = limits
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; want a number between {low} and {high}")
    if not low <= value <= high:
        raise ValueError(f"{name} is {quoted(value)}; want a number between {low} and {high}")
    if isinstance(value, int) and abs(value) > 2**1023:
        raise ValueError(f"{name} has more than 300 digits; want a number between {low} and {high}")


def _text(value: str, limits: tuple[float, float], name: str) -> None:
    if not limits[0] <= len(value) <= limits[1]:
        raise ValueError(f"{name} has {len(value)} characters; want between {limits[0]} and {limits[1]}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is {quoted(value)}, which is no valid text") from None


def _spelled(wanted: Any) -> str:
    names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", type(None): "nothing"}
    if get_origin(wanted) is Literal:
        return f"one of {', '.join(get_args(wanted))}"
    return names.get(wanted, "several values" if get_origin(wanted) is tuple else "names and values")
