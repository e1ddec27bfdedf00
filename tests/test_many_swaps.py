"""A dozen swaps keep nothing; `python -m tests.many_swaps` does hundreds. And that what is kept is noticed."""

import subprocess
import sys

import many_swaps
import pytest
import torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory and open files are read from /proc")


def test_swaps_keep_nothing():
    # In a process of its own: in one that has run other tests the allocator gives back and takes by whole megabytes.
    few = ["--methods", "photoswap", "masactrl", "--inversions", "direct", "null-text", "--count", "12"]
    command = [sys.executable, many_swaps.__file__, "--warm-up", "6", *few]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("kind", ["tensor", "file", "memory"])
def test_what_is_kept_is_noticed(kind, tmp_path):
    kept = []

    def leaking():
        while True:
            if kind == "tensor":
                kept.append(torch.ones(1))
            elif kind == "file":
                kept.append(open(tmp_path / str(len(kept)), "w"))  # noqa: SIM115
            else:
                kept.append(b"x" * 10_000_000)  # far more than a large process may give back meanwhile
            yield kind

    before, after = many_swaps.growth(leaking(), 6, warm_up=2)
    for file in kept if kind == "file" else ():
        file.close()
    assert not many_swaps.flat(before, after)
