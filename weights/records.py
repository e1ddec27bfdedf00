"""One checked reader and writer for every file of our own.

A file is safetensors with one JSON text in its metadata (with several keys the same content would not give the same
bytes). A kind of file is a `FileKind`: which tensors it holds, of what shapes and dtypes, and a dataclass of what is to
be known about them. What a file says of itself is believed only once it is checked: names, types and ranges of the
text, then the header's names, dtypes and shapes, then the numbers themselves, all finite, and nothing is built before.
Every failure is a ValueError of one sentence, of bounded length.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.prompts import article
from weights.atomic import atomic
from weights.parsing import Limits, parse, parse_json
from weights.quoting import listed, quoted, shown

__all__ = [  # and what an error quotes, which every kind of file has to
    "RECORD_KEY",
    "FileKind",
    "TensorRule",
    "check_tensors",
    "check_values",
    "listed",
    "quoted",
    "read",
    "shown",
    "write",
]

RECORD_KEY = "photoswap"  # of the metadata
OLD_KEYS = {"photoswap inversion 1": "inversion"}  # of files written before every kind shared one key
RECORD_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
RECORD_DTYPES |= {"I64": torch.int64, "U8": torch.uint8}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)

T = TypeVar("T")


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
