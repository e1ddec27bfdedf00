"""Pickles: tensors come out, and nothing else ever runs."""

import os
import pickle
import subprocess
import zipfile

import pytest
import torch

from weights.pickles import check_name, kind_of, read_pickle

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
    with pytest.raises(ValueError, match=r"^\S+ is no checkpoint, or only part of one \([^\n]{1,150}\): want a whole"):
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
