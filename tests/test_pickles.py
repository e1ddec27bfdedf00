"""Pickles: tensors come out, and nothing else ever runs."""

import os
import pickle
import subprocess
import sys
import types
import warnings
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from weights.files import Checkpoint
from weights.pickles import INERT, check_name, kind_of, read_pickle

STATE = {"state_dict": {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.float16)}, "step": 3}


class Malice:
    """Unpickled by Python, it writes a file."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def trap(call, path):
    mark = str(path)
    calls = {
        "system": Malice(os.system, f"touch {mark}"),
        "eval": Malice(eval, f"open({mark!r}, 'w').close()"),
        "open": Malice(open, mark, "w"),
        "popen": Malice(subprocess.run, ["touch", mark]),
    }
    return calls[call]


WRITERS = {
    "archive": lambda content, path: torch.save(content, path),
    "old": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "bare": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    "bare text": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
    "bare new": lambda content, path: path.write_bytes(pickle.dumps(content)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("call", ["system", "eval", "open", "popen"])
def test_nothing_runs(tmp_path, call, writer):
    mark, path = tmp_path / "ran", tmp_path / "model.ckpt"
    evil = (
        {"state_dict": STATE["state_dict"], "callbacks": trap(call, mark)}
        if writer in ("archive", "old")
        else trap(call, mark)
    )
    WRITERS[writer](evil, path)
    with pytest.raises(ValueError) as error:
        read_pickle(path)
    assert "\n" not in str(error.value)
    assert not mark.exists()


def test_the_trap_works(tmp_path):
    """What the test above shows is worth something: Python's own unpickler does run it."""
    for call in ("system", "eval", "open", "popen"):
        mark = tmp_path / call
        opened = pickle.loads(pickle.dumps(trap(call, mark)))
        if hasattr(opened, "close"):
            opened.close()
        assert mark.exists()


def test_what_is_asked_for_is_named(tmp_path):
    torch.save({"state_dict": {}, "x": trap("system", tmp_path / "ran")}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"asks for \w+\.system on opening.*it was not run"):
        read_pickle(tmp_path / "model.ckpt")


@pytest.mark.parametrize("writer", ["archive", "old"])
@pytest.mark.parametrize("content", [STATE, STATE["state_dict"]], ids=["nested", "flat"])
def test_tensors_come_out(tmp_path, writer, content):
    WRITERS[writer](content, tmp_path / "model.ckpt")
    found = read_pickle(tmp_path / "model.ckpt")
    assert found.keys() == STATE["state_dict"].keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in STATE["state_dict"].items())


def test_writing_to_tensors_leaves_the_file_alone(tmp_path):
    torch.save(STATE, tmp_path / "model.ckpt")
    before = (tmp_path / "model.ckpt").read_bytes()
    read_pickle(tmp_path / "model.ckpt")["a"].zero_()
    assert (tmp_path / "model.ckpt").read_bytes() == before


@pytest.mark.parametrize("writer", ["archive", "old"])
@pytest.mark.parametrize("share", [0.0, 0.005, 0.1, 0.5, 0.99])
def test_part_of_a_file_is_refused(tmp_path, writer, share):
    path = tmp_path / "model.ckpt"
    WRITERS[writer](STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        ValueError, match=r"^\S+ is no checkpoint, or only part of one \([^\n]{1,150}\): want a complete"
    ):
        read_pickle(path)


def test_other_things_are_refused(tmp_path):
    path = tmp_path / "model.ckpt"
    for content in ([1, 2], {"step": 3}, {"state_dict": [torch.ones(1)]}):
        torch.save(content, path)
        with pytest.raises(ValueError, match="holds no tensors by name"):
            read_pickle(path)
    path.write_text("<html>Not found</html>")
    with pytest.raises(ValueError, match="no checkpoint, or only part of one"):
        read_pickle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "a photo of a cat")
    with pytest.raises(ValueError, match="no checkpoint, or only part of one"):
        read_pickle(path)


def test_kinds_and_names(tmp_path):
    for writer in ("archive", "old"):
        WRITERS[writer](STATE, tmp_path / "model.safetensors")
        assert kind_of(tmp_path / "model.safetensors") == "pickle"
        with pytest.raises(ValueError, match=r"pickle by its content.*rename it to model\.ckpt"):
            check_name(tmp_path / "model.safetensors")
    (tmp_path / "notes.ckpt").write_text("a photo of a cat")
    assert kind_of(tmp_path / "notes.ckpt") is None
    check_name(tmp_path / "notes.ckpt")


# What a trainer noted beside the weights


def stands_in(monkeypatch, full_name, **members):
    """A class that pickles under another's name, as if the trainer that has it were installed."""
    module, _, name = full_name.rpartition(".")
    made = type(name, (), {"__module__": module, **members})
    packages = module.split(".")
    for i in range(len(packages)):
        package = ".".join(packages[: i + 1])
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    setattr(sys.modules[module], name, made)
    return made


@pytest.mark.parametrize("writer", ["archive", "old"])
def test_callbacks_of_lightning_are_neither_needed_nor_made(tmp_path, monkeypatch, writer):
    """As the published .ckpt of Stable Diffusion 1 have them: a class as a key, and a loss as a number of NumPy's."""
    checkpoint = stands_in(monkeypatch, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    made = checkpoint()
    made.monitor, made.best = "val/loss", np.float64(0.5)
    noted = {"callbacks": {checkpoint: {"best_model_score": np.float64(0.5)}, "another": made}, "global_step": 3}
    path = tmp_path / "model.ckpt"
    WRITERS[writer](STATE | noted, path)
    allowed = set(map(repr, torch.serialization.get_safe_globals()))  # torch keeps them in no order
    monkeypatch.undo()  # the class is gone, as it is where nobody installed the trainer
    assert all(torch.equal(tensor, STATE["state_dict"][key]) for key, tensor in read_pickle(path).items())
    assert set(map(repr, torch.serialization.get_safe_globals())) == allowed


@pytest.mark.parametrize("how", ["called", "made", "set up"])
def test_a_name_that_stands_for_nothing_runs_nothing(tmp_path, monkeypatch, how):
    """Even where the class of that name would write a file when it is called, made or given its state."""
    mark, path, name = tmp_path / "ran", tmp_path / "model.ckpt", INERT[0]
    writes = lambda *_: mark.touch()  # noqa: E731
    if how == "called":
        members = {"__init__": writes, "__reduce__": lambda self: (type(self), ("x",))}
    elif how == "made":
        members = {"__new__": lambda cls, *_: writes() or object.__new__(cls), "__getnewargs__": lambda _: ("x",)}
    else:
        members = {"__setstate__": writes, "__getstate__": lambda _: {"x": 1}}
    evil = stands_in(monkeypatch, name, **members)
    torch.save(STATE | {"callbacks": object.__new__(evil)}, path)
    assert not mark.exists()
    assert read_pickle(path).keys() == STATE["state_dict"].keys()
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # Python's own unpickler does run it


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint.save_checkpoint",
        "pytorch_lightning.callbacks.model_checkpoint.os",
        "pytorch_lightning.callbacks.lambda_function.LambdaCallback",
        "numpy.load",
        "numpy.core.multiarray._reconstruct",
        "weights.pickles.Inert",
        "x" * 20000 + ".y",
    ],
)
def test_names_beside_those_allowed_are_refused(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b")R.")
    with pytest.raises(ValueError, match=r"asks for \S+ on opening.*it was not run") as error:
        read_pickle(tmp_path / "model.ckpt")
    assert len(str(error.value)) < 500


def test_a_container_cannot_bring_its_own_way_of_being_read(tmp_path):
    """The unpickler lets an OrderedDict have any attribute, and one called `items` would be asked for the entries."""

    class Crafted:
        def __init__(self, entries):
            self.entries = list(entries.items())

        def __reduce__(self):
            return OrderedDict, (self.entries,), dict.fromkeys(("items", "get", "keys", "__class__"), Counter)

    inner = Crafted(STATE["state_dict"])
    torch.save(Crafted(STATE | {"state_dict": inner}), tmp_path / "model.ckpt")
    assert read_pickle(tmp_path / "model.ckpt").keys() == STATE["state_dict"].keys()


# Tensors that are no weights


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)


def sparse():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(3).to_sparse_csr()


def endless():
    return torch.zeros(1).as_strided((1 << 40, 1 << 20), (0, 0))


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (lambda: torch.ones(2, device="meta"), r"on no device \(meta\)"),
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (sparse, "sparse"),
        (quantised, "quantised"),
        (endless, "larger than the numbers there are for it"),
    ],
)
@pytest.mark.parametrize("writer", ["archive", "old"])
def test_tensors_that_are_not_plain_are_one_sentence(tmp_path, tensor, said, writer):
    path = tmp_path / "model.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        WRITERS[writer]({"state_dict": STATE["state_dict"] | {"c": tensor()}}, path)
    with pytest.raises(ValueError, match=f"^\\S+model.ckpt holds c as a tensor that is {said}: want plain weights$"):
        read_pickle(path)


@pytest.mark.parametrize("key", [3, ("a", "b"), None, b"a", 10**400])
def test_a_key_that_is_no_text_is_one_sentence(tmp_path, key):
    torch.save({"state_dict": STATE["state_dict"] | {key: torch.ones(1)}}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"holds a tensor under .*, which is no name") as error:
        read_pickle(tmp_path / "model.ckpt")
    assert len(str(error.value)) < 300


DTYPES = [torch.int8, torch.uint8, torch.bool, torch.int64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_no_floating_point_number_is_no_weight(tmp_path, dtype, ending):
    path, state = tmp_path / f"model.{ending}", {"a": torch.ones(3), "b" * 9999: torch.ones(3).to(dtype)}
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    checkpoint = Checkpoint(path)
    assert torch.equal(checkpoint["a"], state["a"])
    with pytest.raises(ValueError, match=rf"as {str(dtype)[6:]}: want weights in float16, bfloat16, fl") as error:
        checkpoint["b" * 9999]
    assert len(str(error.value)) < 500


def test_integers_that_count_are_read(tmp_path):
    state = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)}
    state |= {"model_ema.num_updates": torch.tensor(3, dtype=torch.int32)}
    save_file(state, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path / "model.safetensors")
    assert all(torch.equal(checkpoint[key], tensor) for key, tensor in state.items())
