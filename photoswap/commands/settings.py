"""The settings of a method, as the flags of `photoswap swap` give them: each of its type, and each said once."""

import argparse
from dataclasses import fields
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from photoswap.method import Method

# settings that --set leaves to their own flags
ELSEWHERE = {"steps": "steps", "guidance_scale": "guidance", "blend": "blend"}


def settings_of(arguments: argparse.Namespace, kind: "type[Method]") -> dict[str, Any]:
    """The settings that were given, by --phi, --M, --A, --align, --blend and --set.

    Raises ValueError for one that the method lacks, or that is set twice, or to a value of another type.
    """
    from photoswap.blend import Blend

    flags = {name: getattr(arguments, name) for name in ("phi", "M", "A", "align")}
    given = {name: value for name, value in flags.items() if value is not None}
    if arguments.blend is not None:
        given["blend"] = Blend(threshold=arguments.blend)
    return given | set_by_name(arguments.settings, kind, arguments.method, given, ELSEWHERE)


def set_by_name(
    settings: "Sequence[tuple[str, Any]]",
    kind: type,
    method: str,
    given: "Mapping[str, Any]",
    elsewhere: "Mapping[str, str]",
) -> dict[str, Any]:
    """What --set said of a kind of method that goes by this name. given: what other flags set. elsewhere: settings
    that have a flag of their own. Raises ValueError as `settings_of` does."""
    types_wanted = {name: get_type_hints(kind)[name] for name in (field.name for field in fields(kind) if field.repr)}
    found: dict[str, Any] = {}
    for name, value in settings:
        if name in elsewhere:
            raise ValueError(f"--set {name}: that setting has a flag of its own; say --{elsewhere[name]}")
        if name in given or name in found:
            raise ValueError(f"{name} is set twice; say it once")
        if name in types_wanted and not _suits(value, types_wanted[name]):
            wanted = getattr(types_wanted[name], "__name__", types_wanted[name])
            raise ValueError(f"--set {name}={value!r} is of the wrong kind; want {wanted}")
        found[name] = _frozen(value)
    if unknown := [name for name in (*given, *found) if name not in types_wanted]:
        raise ValueError(f"{method} has no setting {', '.join(unknown)}; it has {', '.join(types_wanted)}")
    return found


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down: settings are values."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _suits(value: Any, wanted: Any) -> bool:
    """Whether a value read from JSON is of a setting's type: one of JSON's own, a choice, or a tuple."""
    kinds = get_args(wanted)
    if get_origin(wanted) is Literal:
        return value in kinds
    if get_origin(wanted) in (Union, UnionType):
        return any(_suits(value, kind) for kind in kinds)
    if get_origin(wanted) is tuple:
        if not isinstance(value, list) or (Ellipsis not in kinds and len(value) != len(kinds)):
            return False
        each = kinds if Ellipsis not in kinds else kinds[:1] * len(value)
        return all(_suits(one, kind) for one, kind in zip(value, each, strict=True))
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)
