"""A few kills at random moments; `python -m tests.kills` tries hundreds. And that the judge sees what is half-written.

All of it in processes of its own: one with threads, as pytest's may be, cannot be forked safely.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPOILED = """
import sys
from pathlib import Path
import kills
from kill_jobs import Job
from kills import kills as run

def half(words):  # two files, neither moved into place when it is complete
    Path("out").mkdir(exist_ok=True)
    for name in ("a.json", "b.json"):
        with open(f"out/{name}", "w") as file:
            file.write('{"a": ')
            file.flush()
            open("scratch", "w").close()
            Path("scratch").unlink()
            file.write('1}')

def other(words):  # going on from a checkpoint, it makes something else
    Path("out").mkdir(exist_ok=True)
    there = Path("out/checkpoint.json").exists()
    Path("out/checkpoint.json").write_text("{}")
    Path("out/c.json").write_text('{"resumed": %d}' % there)

def eats(words):
    Path("photo.png").write_bytes(b"")
    Path("d.json").write_text("{}")

kinds = {"half": half, "other": other, "eats": eats}
kills.furnish = lambda home: (home.mkdir(parents=True), (home / "photo.png").write_bytes(b"photo"))
for name, function in kinds.items():
    kills.jobs = lambda: [Job(name, function, [], lambda home: [])]
    run(Path(sys.argv[1]) / name, 8, 0)
"""


@pytest.mark.parametrize(("count", "seed"), [(3, 7), pytest.param(48, 0, marks=pytest.mark.slow)])
def test_nothing_is_half_written_and_resuming_changes_nothing(count, seed):
    """Learning, swapping and training the diffusion once each; all jobs four times."""
    command = [sys.executable, "-m", "tests.kills", "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"0 faults in {count} kills" in done.stdout
    assert sum(map(int, re.findall(r"(\d+) .+: ended$", done.stdout, re.MULTILINE))) >= 2 * count / 3


def test_the_judge_sees_what_is_wrong(tmp_path):
    command = [sys.executable, "-c", SPOILED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / "tests", env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for fault in (
        "is half-written",
        "out/c.json is not that of a run that nobody disturbed",
        "photo.png, which was read, is not as it was",
    ):
        assert fault in done.stdout


def environment() -> dict[str, str]:
    """This process's, with the repository to import from."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
