"""weights.atomic: complete or not there, and nothing left behind, not even by a process that was killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from weights import atomic as module
from weights.atomic import HIDDEN, LOCK, atomic, clear, new_folder

ROOM = str(Path(__file__).parent.parent / "weights")
WRITER = """
import sys, time, types
from pathlib import Path
weights = types.ModuleType("weights")  # without what the package imports, torch above all
weights.__path__ = [sys.argv[4]]
sys.modules["weights"] = weights
from weights.atomic import atomic, new_folder
how, path, wait = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
with (atomic if how == "file" else new_folder)(path) as place:
    (place if how == "file" else place / "inside").write_bytes(b"half" * 1000)
    print("writing", flush=True)
    time.sleep(wait)
print("done", flush=True)
"""


def writer(how, path, wait=600.0):
    """A process that is in the midst of writing."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, how, str(path), str(wait), ROOM], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    return process


def end(process, how=signal.SIGKILL):
    process.send_signal(how)
    process.wait()
    process.stdout.close()


def hidden(folder):
    return [p for p in folder.iterdir() if p.name.endswith(HIDDEN)]


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_killed_process_leaves_nothing_that_looks_finished_and_the_next_run_clears_it(how, tmp_path):
    process = writer(how, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()
    end(process)
    assert [p.name.startswith(".a.bin.") for p in tmp_path.iterdir()] == [True]
    assert not [p for p in tmp_path.rglob("*") if p.name == "a.bin"]
    with atomic(tmp_path / "b.bin") as temporary:  # another file of the same run
        temporary.write_bytes(b"complete")
        assert hidden(tmp_path) == [temporary.parent]
    assert [p.name for p in tmp_path.iterdir()] == ["b.bin"]


def test_what_stood_there_survives_a_kill(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"before")
    end(writer("file", tmp_path / "a.bin"))
    assert (tmp_path / "a.bin").read_bytes() == b"before"


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_living_neighbour_s_is_not_touched(how, tmp_path):
    """Of the same target, at the same time: both finish, and the later one stands."""
    process = writer(how, tmp_path / "a.bin", 1.5)
    [theirs] = hidden(tmp_path)
    with atomic(tmp_path / "b.bin") as temporary:
        temporary.write_bytes(b"ours")
    clear(tmp_path)
    assert theirs.exists() and len(list(theirs.iterdir())) == 2
    assert process.wait(60) == 0
    process.stdout.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "b.bin"]
    written = tmp_path / "a.bin" if how == "file" else tmp_path / "a.bin" / "inside"
    assert written.read_bytes() == b"half" * 1000


def test_a_stopped_neighbour_s_is_not_touched(tmp_path):
    process = writer("file", tmp_path / "a.bin")
    process.send_signal(signal.SIGSTOP)
    clear(tmp_path)
    assert len(hidden(tmp_path)) == 1
    end(process)
    clear(tmp_path)
    assert hidden(tmp_path) == []


def test_an_empty_folder_goes_at_once_and_a_strange_one_when_it_is_old(tmp_path):
    """Empty is how a process killed between making and locking leaves it; its maker, if it lives, makes another."""
    empty, fresh, old = (tmp_path / f".a.{i}{HIDDEN}" for i in range(3))
    for home in (empty, fresh, old):
        home.mkdir()
    for home in (fresh, old):
        (home / "partial").touch()
    os.utime(old, (time.time() - 1000,) * 2)
    clear(tmp_path)
    assert hidden(tmp_path) == [fresh]


REMOVER = """
import os, signal, sys, types
from pathlib import Path
weights = types.ModuleType("weights")  # without what the package imports, torch above all
weights.__path__ = [sys.argv[4]]
sys.modules["weights"] = weights
from weights.atomic import clear, new_folder
how, path, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def watch(event, arguments, calls=[]):
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "open"):
        calls.append(event)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
try:
    with new_folder(path) as place:
        (place / "inside").write_bytes(b"complete")
        if how == "failed":
            raise RuntimeError
except RuntimeError:
    print("failed")
"""


@pytest.mark.parametrize("how", ["finished", "failed"])
def test_wherever_it_is_killed_the_next_writer_clears_everything_at_once(how, tmp_path):
    """Before each of its calls of the system in turn, also those that remove the hidden folder."""
    for last in range(1, 100):
        folder = tmp_path / str(last)
        folder.mkdir()
        command = [sys.executable, "-S", "-c", REMOVER, how, str(folder / "a"), str(last), ROOM]
        ended = subprocess.run(command, capture_output=True, env={"PYTHONPATH": os.pathsep.join(sys.path)}).returncode
        clear(folder)
        assert [p.name for p in folder.iterdir()] in ([], ["a"])
        if not ended:
            break
        assert ended == -signal.SIGKILL
    assert 8 < last < 99 and (folder / "a").exists() == (how == "finished")


def test_what_is_not_ours_stays(tmp_path):
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / LOCK).touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f".link{HIDDEN}").symlink_to(outside)
    (folder / f".file{HIDDEN}").touch()
    (folder / ".hidden").mkdir()
    clear(folder)
    assert (outside / "inner").exists() and len(list(folder.iterdir())) == 3


def test_where_there_are_no_locks_nothing_is_taken_for_left_behind(tmp_path, monkeypatch):
    def unknown(handle):
        raise OSError(95, "Operation not supported")

    home = tmp_path / f".a.1{HIDDEN}"
    home.mkdir()
    (home / LOCK).touch()
    monkeypatch.setattr("weights.lock._lock", unknown)
    with atomic(tmp_path / "b.bin") as temporary:  # without a warning: pytest would make it an error
        temporary.write_bytes(b"complete")
    assert (tmp_path / "b.bin").exists() and hidden(tmp_path) == [home]


def test_a_folder_cleared_before_its_lock_was_on_is_made_anew(tmp_path, monkeypatch):
    make, made = module.tempfile.mkdtemp, []

    def made_and_cleared(**settings):
        made.append(make(**settings))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(module.tempfile, "mkdtemp", made_and_cleared)
    with atomic(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"complete")
    assert len(made) == 2 and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_many_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
    """Threads, which clear beside each other all the time: 4 of them, 25 files each."""
    faults = []

    def work(name):
        try:
            for i in range(25):
                with atomic(tmp_path / f"{name}.{i}") as temporary:
                    temporary.write_bytes(b"complete")
        except BaseException as error:  # a thread's own would be lost
            faults.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and len(list(tmp_path.iterdir())) == 100 and not hidden(tmp_path)


SAVER = """
import os, signal, sys, time
from pathlib import Path
from tiny_model import tiny_model
from weights.folder import save_folder
from weights.load import save
model, save = tiny_model(), {"file": save, "folder": save_folder}[sys.argv[1]]
for moment in range(20):
    if not (child := os.fork()):
        save(model, Path(sys.argv[2]) / str(moment) / "model.safetensors")
        os._exit(0)
    time.sleep(0.004 * moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_model_killed_while_it_is_written_is_complete_or_not_there(how, tmp_path):
    """At twenty moments of the writing, which takes some ten milliseconds."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    subprocess.run(
        [sys.executable, "-c", SAVER, how, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths}, check=True
    )
    finished = 0
    for folder in tmp_path.iterdir():
        out = folder / "model.safetensors"
        clear(folder)
        assert [*folder.iterdir()] == [out] * out.exists()
        if out.exists():
            finished += 1
            files = [out] if how == "file" else sorted(out.rglob("*.safetensors"))
            assert len(files) == (1 if how == "file" else 3)
            assert all(torch.isfinite(t).all() for file in files for t in load_file(file).values())
    assert finished < 20


def test_the_process_s_umask_is_never_changed(tmp_path, monkeypatch):
    """It belongs to all threads: another that makes a file meanwhile would make it for everybody to write."""
    (tmp_path / "plain").write_text("")
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("complete")
    with new_folder(tmp_path / "b") as folder:
        (folder / "inside").write_text("complete")
    plain = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "a.txt").stat().st_mode == plain == (tmp_path / "b" / "inside").stat().st_mode


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(mask, tmp_path):
    before = os.umask(mask)
    try:
        with atomic(tmp_path / "a.txt") as temporary:
            temporary.write_text("complete")
        with new_folder(tmp_path / "b") as folder:
            assert folder != tmp_path / "b"
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("make", [atomic, new_folder])
def test_folders_made_for_it_go_when_it_fails(make, tmp_path):
    with pytest.raises(KeyboardInterrupt), make(tmp_path / "a" / "b" / "c"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_unless_it_is_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "inside").write_text("complete")
    assert (tmp_path / "empty" / "inside").read_text() == "complete"
    with pytest.raises(ValueError, match="is there already"), new_folder(tmp_path / "empty"):
        pass


def test_errors_name_the_file_that_was_wanted(tmp_path):
    with pytest.raises(OSError) as failed, atomic(tmp_path / "a.bin"):
        pass  # nothing is written
    assert failed.value.filename == str(tmp_path / "a.bin")


def test_names_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("ü" * 125 + ".png")
    with atomic(path) as temporary:
        temporary.write_bytes(b"complete")
    assert path.read_bytes() == b"complete"
