"""Every way to spoil a file of ours, one at a time: what its text says, and what its tensors are."""

import json
from collections.abc import Iterator

import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from weights.records import RECORD_KEY

VALUES = {
    "null": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "huge": 10**12,
    "endless": 10**400,
    "digits": 10**4000,
    "fraction": 0.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "text": "x",
    "empty": "",
    "long": "x" * 20_000,
    "lines": "two\nlines",
    "surrogate": "\ud800",
    "list": [],
    "lists": [[1]],
    "many": [1.0] * 20_000,
    "NaNs": [float("nan")],
    "object": {},
    "nested": {"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}},
}
TEXTS = {
    "no JSON": "{",
    "nothing": "",
    "a list": "[1, 2]",
    "a number": "7",
    "null": "null",
    "deep": "[" * 100_000,
    "long": '"' + "x" * 3_000_000 + '"',
    "digits": '{"kind": ' + "9" * 10_000 + "}",
    "no kind": "{}",
    "kind a list": '{"kind": []}',
    "long kind": json.dumps({"kind": "x" * 20_000}),
}
DTYPES = (torch.int8, torch.bool, torch.float8_e4m3fn, torch.int16, torch.int32, torch.uint64, torch.complex64)


def contents(path):
    """What stands in a file: tensors, and names and values."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[RECORD_KEY])  # noqa: SIM118


def spoiled_texts(data: dict) -> Iterator[tuple[str, str]]:
    """The text of a file, each name left out, and given every strange value; a strange name; and no text at all."""
    yield from TEXTS.items()
    for name in data:
        yield f"no {name}", json.dumps({key: value for key, value in data.items() if key != name})
        for what, value in VALUES.items():
            yield f"{name} {what}", json.dumps({**data, name: value})
    yield "a strange name", json.dumps({**data, "strange": 1})
    yield "a long name", json.dumps({**data, "x" * 20_000: 1})
    yield "another kind", json.dumps({**data, "kind": "cake"})
    yield "a newer version", json.dumps({**data, "version": 1000})
    yield "a version of digits", json.dumps({**data, "version": 10**30})


def spoiled_tensors(tensors: dict) -> Iterator[tuple[str, dict]]:
    """The tensors of a file, each left out, renamed, and of every strange dtype, shape and number."""
    yield "none", {}
    yield "one too many", {**tensors, "strange": torch.zeros(1)}
    yield "a long name", {**tensors, "x" * 20_000: torch.zeros(1)}
    for name, tensor in tensors.items():
        rest = {key: value for key, value in tensors.items() if key != name}
        yield f"no {name}", rest
        for dtype in DTYPES:
            yield f"{name} {dtype}", {**rest, name: torch.zeros(tensor.shape).to(dtype)}
        yield f"{name} flat", {**rest, name: tensor.flatten()}
        yield f"{name} a scalar", {**rest, name: tensor.new_zeros(())}
        yield f"{name} one axis more", {**rest, name: tensor[None].clone()}
        yield f"{name} nine axes", {**rest, name: tensor.new_zeros([1] * 9)}
        for axis in range(tensor.ndim):
            yield f"{name} empty", {**rest, name: tensor.narrow(axis, 0, 0).clone()}
            yield f"{name} longer in {axis}", {**rest, name: torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)}
        if tensor.is_floating_point():
            for value in (float("nan"), float("inf"), -float("inf"), 1e30):
                ill = tensor.clone()
                ill.flatten()[-1] = value
                yield f"{name} {value}", {**rest, name: ill}


def put(path, tensors, text):
    """Write such a file."""
    save_file(tensors, path, {} if text is None else {RECORD_KEY: text})


def spoiled_bytes(whole: bytes, generator: torch.Generator, count: int = 200) -> Iterator[tuple[str, bytes]]:
    """A file cut short, and with bytes changed at random: a few anywhere, a few in its header."""
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(count):
        place = int(torch.randint(len(whole), (), generator=generator))
        yield f"cut at {place}", whole[:place]
        changed = bytearray(whole)
        for _ in range(3):
            place = int(torch.randint(header, (), generator=generator))
            changed[place] = int(torch.randint(256, (), generator=generator))
        yield f"changed up to {place}", bytes(changed)
    yield "header of another program", save({"x": torch.zeros(1)})
