"""One checked reader and writer for every file of our own.

A file is safetensors with one JSON text in its metadata (with several keys the same content would not give the same
bytes). A kind of file is a `FileKind`: which tensors it holds, of what shapes and dtypes, and a dataclass of what is to
be known about them. What a file says of itself is believed only once it is checked: names, types and ranges of the
text, then the header's names, dtypes and shapes, then the numbers themselves, all finite, and nothing is built before.
Every failure is a ValueError of one sentence, of bounded length.
"""

import json
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.config import AnyConfig, ModelConfig, PaintConfig
from models.prompts import article
from weights.atomic import atomic

RECORD_KEY = "photoswap"  # of the metadata
OLD_KEYS = {"photoswap inversion 1": "inversion"}  # of files written before every kind shared one key
LONGEST_TEXT = 2**20  # the longest JSON text read, in characters
QUOTED = 60  # characters of a value quoted back
RECORD_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
RECORD_DTYPES |= {"I64": torch.int64, "U8": torch.uint8}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)

Limits = Mapping[str, tuple[float, float]]
T = TypeVar("T")


# ---- JSON to dataclasses


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


# ---- kinds of file


@dataclass(frozen=True)
class TensorRule:
    """What a tensor of a file may be.

    shape: for each axis its size, or a name for one that all axes of that name share; None for any shape. dtypes: those
    that may be. limits: of the values; a floating-point number must be finite whatever they are. wanted: whether it may
    not be missing.
    """

    shape: tuple[int | str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] = FLOATS
    limits: tuple[float, float] | None = None
    wanted: bool = True


@dataclass(frozen=True)
class FileKind(Generic[T]):
    """A kind of file.

    about: the dataclass of what is to be known about its tensors. tensors: name, or pattern of names such as "unet.*",
    to what it may be; the first that fits counts. limits: as for `parse`. sizes: the least and the largest of an axis
    by its name in shapes; those not named are at least 1. version: that is written. upgrade: turns the names and values
    of an older version into those of this one; None refuses older versions. again: what to do about a damaged file.
    """

    name: str
    about: type[T]
    tensors: Mapping[str, TensorRule]
    limits: Limits = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    version: int = 1
    upgrade: Callable[[int, dict[str, Any]], dict[str, Any]] | None = None
    again: str = "make it again"

    @property
    def one(self) -> str:
        """The name with its article."""
        return f"{article(self.name)} {self.name}"

    def damaged(self, path: str | Path, error: Exception) -> ValueError:
        """What to raise when such a file's content makes no sense."""
        return ValueError(f"{shown(path)} is a damaged {self.name} ({error}): {self.again}")


def write(path: str | Path, kind: FileKind[T], tensors: Mapping[str, Tensor], about: T) -> None:
    """Write a file of this kind, complete or not at all.

    Raises ValueError for what `read` would refuse, so that nothing useless is left on the disk, and OSError.
    """
    held = _apart({name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()})
    try:
        parse(kind.about, _plain(about), kind.limits)
        check_tensors(kind, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in held.items()})
        for name, tensor in held.items():
            check_values(name, tensor, _rule(kind, name))
    except ValueError as error:
        raise ValueError(f"this is no {kind.name} worth writing to {shown(path)}: {error}") from None
    text = json.dumps({"kind": kind.name, "version": kind.version, **_plain(about)}, sort_keys=True)
    with atomic(path) as temporary:
        save_file(held, temporary, {RECORD_KEY: text})


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where they share memory with an earlier one: safetensors refuses to write those."""
    seen: set[int] = set()
    held = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        held[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return held


def read(path: str | Path, kind: FileKind[T]) -> tuple[dict[str, Tensor], T]:
    """The tensors of a file of this kind, on the CPU, and what is known about them.

    Raises ValueError when there is no such file, when it is cut short, damaged, of another kind, or of a newer version.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no file {shown(path)}; {kind.one} was wanted")
    try:
        with safe_open(path, framework="pt") as file:
            data = _of_kind(path, kind, file.metadata() or {})
            try:
                about = parse(kind.about, data, kind.limits)
                # safe_open knows its keys by a method alone
                headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                check_tensors(kind, {name: (_dtype(name, h), tuple(h.get_shape())) for name, h in headers.items()})
                tensors = {name: file.get_tensor(name) for name in headers}
                for name, tensor in tensors.items():
                    check_values(name, tensor, _rule(kind, name))
            except ValueError as error:
                raise kind.damaged(path, error) from None
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{shown(path)} is no {kind.name}, or only part of one: not a safetensors file, or a truncated one "
            f"({shown(error, 100)}); {kind.again}"
        ) from error
    return tensors, about


def _of_kind(path: str | Path, kind: FileKind[T], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The names and values in the metadata, as this version has them, once it is sure that they are of this kind."""
    key = next((key for key in (RECORD_KEY, *OLD_KEYS) if key in metadata), None)
    if key is None:
        raise ValueError(f"{shown(path)} is a safetensors file of another program; {kind.one} was wanted")
    try:
        data = parse_json(metadata[key])
        if not isinstance(data, dict):
            raise ValueError(f"its text is {quoted(data)}; want names and values")
        found = data.pop("kind", OLD_KEYS.get(key))
        version = data.pop("version", 1)
        if not isinstance(found, str):
            raise ValueError("its text does not say what kind of file it is")
        if found == kind.name and (type(version) is not int or version < 1):
            raise ValueError(f"version is {quoted(version)}; want a whole number from 1")
    except ValueError as error:
        raise ValueError(f"{shown(path)} is no {kind.name}, or a damaged one: {error}; {kind.again}") from None
    if found != kind.name:
        raise ValueError(f"{shown(path)} is a file of another kind ({quoted(found)}); {kind.one} was wanted")
    if version > kind.version:
        raise ValueError(
            f"{shown(path)} is {kind.one} of version {quoted(version)}, and this program reads up to {kind.version}: "
            "install a newer one"
        )
    if version == kind.version:
        return data
    if kind.upgrade is None:
        raise ValueError(f"{shown(path)} is {kind.one} of version {version}, no longer read: {kind.again}")
    try:
        return kind.upgrade(version, data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{shown(path)} is a damaged {kind.name} of version {version} ({shown(error, 100)}): {kind.again}"
        ) from None


def check_tensors(kind: FileKind[T], found: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    """Raise ValueError unless names, dtypes and shapes are those of this kind; nothing is allocated for it."""
    unknown = [name for name in found if _rule(kind, name) is None]
    lacking = [p for p, rule in kind.tensors.items() if rule.wanted and not any(fnmatchcase(n, p) for n in found)]
    if unknown or lacking:
        what = [f"the tensor {listed(lacking)} is missing"] * bool(lacking)
        what += [f"the tensor {listed(unknown)} is unknown"] * bool(unknown)
        raise ValueError(" and ".join(what))
    sizes: dict[str, int] = {}
    for name, (dtype, shape) in found.items():
        rule = _rule(kind, name) or TensorRule()
        if dtype not in rule.dtypes:
            wanted = " or ".join(_short(one) for one in rule.dtypes)
            raise ValueError(f"the tensor {quoted(name)} is {_short(dtype)}; want {wanted}")
        _check_shape(name, shape, rule, sizes, kind.sizes)


def _check_shape(
    name: str, shape: tuple[int, ...], rule: TensorRule, known: dict[str, int], limits: Mapping[str, tuple[int, int]]
) -> None:
    said = f"the tensor {quoted(name)} is {quoted(shape)}"
    wanted = shape if rule.shape is None else rule.shape
    if len(wanted) != len(shape) or len(shape) > 8:
        raise ValueError(f"{said}; want {_axes(wanted)}" if len(shape) <= 8 else f"{said}; want at most 8 axes")
    for size, axis in zip(shape, wanted, strict=True):
        low, high = limits.get(axis, (1, 2**31)) if isinstance(axis, str) else (0, 2**31)
        expected = known.setdefault(axis, size) if isinstance(axis, str) else axis
        if size != expected or not low <= size <= high:
            between = f" with {axis} between {low} and {high}" if size == expected else f" with {axis} = {expected}"
            raise ValueError(f"{said}; want {_axes(wanted)}{between if isinstance(axis, str) else ''}")


def check_values(name: str, tensor: Tensor, rule: TensorRule | None) -> None:
    """Raise ValueError when a number of a tensor is NaN, infinite or out of range."""
    if not tensor.numel() or (not tensor.is_floating_point() and (rule is None or rule.limits is None)):
        return
    low, high = (float(x) for x in tensor.aminmax())  # NaN survives in both; one pass and no copy
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"the tensor {quoted(name)} holds NaN or infinity")
    if rule and rule.limits and not rule.limits[0] <= low <= high <= rule.limits[1]:
        least, most = rule.limits
        raise ValueError(f"the tensor {quoted(name)} runs from {low:.6g} to {high:.6g}; want {least:g} to {most:g}")


def _rule(kind: FileKind[T], name: str) -> TensorRule | None:
    return next((rule for pattern, rule in kind.tensors.items() if fnmatchcase(name, pattern)), None)


def _dtype(name: str, header: Any) -> torch.dtype:
    spelled = header.get_dtype()
    if spelled not in RECORD_DTYPES:
        raise ValueError(f"the tensor {quoted(name)} is {quoted(spelled)}, a dtype that no file of ours has")
    return RECORD_DTYPES[spelled]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _axes(shape: tuple[int | str, ...]) -> str:
    return f"({' '.join(map(str, shape))})"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- what is quoted back


def quoted(value: object, most: int = QUOTED) -> str:
    """A value as an error quotes it: its repr, on one line, the middle of a long one left out."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    return shown(repr(value), most)


def shown(text: object, most: int = 200) -> str:
    """A path, or another's message, as an error names it: on one line, the middle of a long one left out."""
    line = str(text)
    line = line if line.isprintable() else repr(line)[1:-1]
    return line if len(line) <= most else f"{line[: most // 2]}...{line[-(most // 2) :]}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Some names, quoted, and how many more there are."""
    names = list(names)
    some = ", ".join(quoted(name) for name in names[:most])
    return some + (f" and {len(names) - most} more" if len(names) > most else "")
