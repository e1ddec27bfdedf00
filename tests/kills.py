"""Kills at random moments: `python -m tests.kills --count 200 --seed 0`.

Each job of tests/kill_jobs.py (learning, swapping, painting, converting, drawing, the benchmark in shards, trainings
from nothing) is begun in a process of its own and ended, by SIGKILL or Ctrl-C, at a moment that seed and
number decide: just before the nth time that it opens a file for writing, moves or removes one, or after a share of its
usual time. Then whatever bears a final name must be complete, what was read must be as it was, and nothing may still
run; the same command, told to go on where there is something to go on from, must end with the files of a run that
nobody disturbed, and leave nothing hidden. Processes are forked, so this runs where there is fork, on Linux and macOS.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import torch
from kill_jobs import Job, furnish, jobs
from PIL import Image
from safetensors import safe_open

from photoswap.__main__ import INTERRUPTED
from train.prior import CLASS_VARIABLE
from weights.atomic import HIDDEN, clear

SECONDS = 600  # far more than any takes, on a machine with much else to do
WRITING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "tempfile.mkdtemp", "os.truncate"}


class Moment(NamedTuple):
    """When to end a job, and how: before its nth write, or after so many seconds."""

    signal: signal.Signals
    write: int | None
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.signal.name} {f'at write {self.write}' if self.write else f'after {self.seconds:.2f} s'}"


def begin(job: Job, words: Sequence[str], home: Path, moment: Moment | None) -> int:
    """Start a job in a process and a process group of its own; the number of the process."""
    if process := os.fork():
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(process, process)
        return process
    code = 1
    try:
        os.chdir(home)
        os.environ[CLASS_VARIABLE] = str(home / "classes")  # drawn by every run anew, and killed there too
        said = os.open(home.with_name("said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1), os.dup2(said, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        count = counting(moment, os.getpid())
        code = int(job.run([*words]) or 0)  # type: ignore[call-overload]
        home.with_name("writes").write_text(str(count[0]))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def counting(moment: Moment | None, process: int) -> list[int]:
    """Count this process's writes from now on, and end it at the one asked for."""
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            writes = bool(set(mode or "") & set("wax+")) or (mode is None and bool(flags & (os.O_WRONLY | os.O_RDWR)))
        else:
            writes = event in WRITING
        if not writes or os.getpid() != process:
            return
        count[0] += 1
        if moment and count[0] == moment.write:
            os.kill(process, moment.signal)

    sys.addaudithook(hook)
    return count


def ended(process: int, home: Path, moment: Moment | None = None) -> tuple[int, str, bool]:
    """Wait for the end of a process, which a moment in time brings about: its code, what it said, and whether alone.

    A code below 0 is the signal that ended it. Alone is a process that left none running.
    """
    start, sent, status = time.monotonic(), False, 0
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        spent = time.monotonic() - start
        if done:
            break
        if spent > SECONDS:
            os.killpg(process, signal.SIGKILL)
        elif moment and moment.write is None and not sent and spent > moment.seconds:
            os.kill(process, moment.signal)
            sent = True
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(status), home.with_name("said").read_text(errors="replace"), gone(process)


def gone(group: int) -> bool:
    """Whether the processes of a group end within seconds; those that do not are ended."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    os.killpg(group, signal.SIGKILL)
    return False


class Usual(NamedTuple):
    """What a job does when nobody disturbs it: where its files are, its writes and its seconds."""

    home: Path
    writes: int
    seconds: float


def undisturbed(job: Job, kept: Path, place: Path) -> Usual:
    """Run a job to its end, where it will be killed: some files are named after where they are of."""
    home, aside = anew(kept, place), place / job.name.replace(" ", "-")
    start = time.monotonic()
    code, said, alone = ended(begin(job, job.words, home, None), home)
    assert code == 0 and alone, f"{job.name} ended with {code}: {said}"
    seconds = time.monotonic() - start
    home.rename(aside)
    return Usual(aside, int(home.with_name("writes").read_text()), seconds)


def anew(kept: Path, place: Path) -> Path:
    """A folder with what the jobs read, at the one place where they all run."""
    home = place / "run" / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(kept, home)
    return home


def moment_of(rng: random.Random, usual: Usual) -> Moment:
    """A moment of a job, mostly one of its writes."""
    how = rng.choices([signal.SIGKILL, signal.SIGINT], [2, 1])[0]
    if rng.random() < 0.6:
        return Moment(how, rng.randint(1, usual.writes))
    return Moment(how, None, rng.random() * usual.seconds)


def visible(home: Path) -> dict[str, Path]:
    """Every file but those in hidden folders of files being made."""
    found = {str(path.relative_to(home)): path for path in sorted(home.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if HIDDEN not in name}


def contents(path: Path) -> Any:
    """What stands in a file, but for what may differ: seconds, and --overwrite. Raises whatever reading it raises."""
    if path.suffix == ".json":
        data = json.loads(path.read_text())
        data.get("arguments", {}).pop("overwrite", None)
        return {key: value for key, value in data.items() if key != "seconds"}
    if path.suffix == ".pt":
        return {key: value for key, value in torch.load(path, weights_only=True).items() if key != "spent"}
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    return path.read_bytes()


def alike(ours: Path, theirs: Path) -> bool:
    """Whether two files say the same; one that cannot be read does not."""
    try:
        return same(contents(ours), contents(theirs))
    except Exception:
        return False


def same(a: Any, b: Any) -> bool:
    """Whether two contents are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def after_the_kill(home: Path, usual: Usual, inputs: dict[str, bytes]) -> list[str]:
    """What is wrong with the files that a killed job left."""
    found, wrong = visible(home), []
    for name, bytes_before in inputs.items():
        if name not in found or found[name].read_bytes() != bytes_before:
            wrong.append(f"{name}, which was read, is not as it was")
    there = visible(usual.home)
    for name, path in found.items():
        if name in inputs:
            continue
        passing = path.name.startswith("checkpoint.")
        if not passing and name not in there and path.name != "lock":
            wrong.append(f"{name} is nothing that the job makes")
        try:
            made = contents(path)
            if not passing and name in there and not same(made, contents(there[name])):
                wrong.append(f"{name} is not what it should be")
        except Exception as error:
            wrong.append(f"{name} is half-written: {error}")
    return wrong


def after_the_end(home: Path, usual: Usual) -> list[str]:
    """What is wrong with the files once the job has been done again."""
    found, there = visible(home), visible(usual.home)
    wrong = [f"{name} is missing" for name in there.keys() - found.keys()]
    wrong += [f"{name} is left over" for name in found.keys() - there.keys()]
    wrong += [f"{path.relative_to(home)} is left over" for path in home.rglob(f"*{HIDDEN}")]
    for name in found.keys() & there.keys():
        if found[name].read_bytes() != there[name].read_bytes() and not alike(found[name], there[name]):
            wrong.append(f"{name} is not that of a run that nobody disturbed")
    return wrong


def kill(job: Job, usual: Usual, kept: Path, place: Path, moment: Moment) -> tuple[list[str], int]:
    """Begin a job, end it, judge, do it again, judge: what is wrong, and how it ended."""
    home = anew(kept, place)
    code, said, alone = ended(begin(job, job.words, home, moment), home, moment)
    wrong = [] if alone else ["it left a process running"]
    if code not in (0, INTERRUPTED if moment.signal == signal.SIGINT else -moment.signal):
        wrong.append(f"it ended with {code}: {said[-1500:]}")
    if code == INTERRUPTED and "Traceback" in said:
        wrong.append(f"Ctrl-C was told by a traceback: {said[-1500:]}")
    wrong += after_the_kill(home, usual, {name: path.read_bytes() for name, path in visible(kept).items()})
    more = job.again(home)
    if more is not None:
        again, said, _ = ended(begin(job, [*job.words, *more], home, None), home)
        if again != 0:
            return [*wrong, f"{' '.join(more) or 'the same command'} then ended with {again}: {said[-1500:]}"], code
    else:  # all was in its place already, and what was left of the making goes with whatever is written there next
        clear(home)
    return [*wrong, *after_the_end(home, usual)], code


def kills(place: Path, count: int, seed: int, first: int = 0, only: str = "") -> tuple[list[str], Counter[str]]:
    """The faults of so many kills, and how often each job was ended in the middle."""
    kept = place / "kept" / "home"
    furnish(kept)
    chosen = [job for job in jobs() if only in job.name]
    usual: dict[str, Usual] = {}
    faults, ends = [], Counter[str]()
    for number in range(first, first + count):
        rng = random.Random(f"{seed} {number}")
        job = chosen[number % len(chosen)]
        if job.name not in usual:
            usual[job.name] = undisturbed(job, kept, place)
        moment = moment_of(rng, usual[job.name])
        wrong, code = kill(job, usual[job.name], kept, place, moment)
        ends[f"{job.name}: {'ended' if code else 'done before'}"] += 1
        if wrong:
            again = f"--seed {seed} --first {number} --count 1"
            faults.append(f"{again}: {job.name}, {moment}\n    " + "\n    ".join(wrong))
            print(faults[-1], flush=True)
    return faults, ends


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first kill, to see one again")
    parser.add_argument("--only", default="", help="jobs with this in their name alone; numbers then mean other kills")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads cannot be forked safely
    with tempfile.TemporaryDirectory() as folder:
        faults, ends = kills(Path(folder), arguments.count, arguments.seed, arguments.first, arguments.only)
    print(*(f"{ends[what]:4} {what}" for what in sorted(ends)), sep="\n")
    print(f"{len(faults)} faults in {arguments.count} kills; seed {arguments.seed}")
    sys.exit(bool(faults))
