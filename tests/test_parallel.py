"""train.parallel: several processes learn what one does with as many rows, to the rounding, and end together."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from command_line import LEARN, files, paint
from safetensors.torch import load_file
from tiny_model import tiny_model

from photoswap.__main__ import TOLD_BY_NOW, _first_to_tell, main
from train.config import learn_config
from train.data import Rows
from train.learn import learn
from train.parallel import ALONE, Team, _batches, own_device

SIZES = {"size": 64, "class_pictures": 2, "class_steps": 1, "accumulate": 2, "prior_weight": 0.5, "checkpoint_every": 1}


def learnt(
    out: Path, processes: int, steps: int, batch: int, resume: bool = False, method: str = "dreambooth", **more: Any
) -> list[float]:
    """Learn in so many processes, and return the losses of the steps.

    more: numbers of the configuration; a function for the model, masks of the pictures, and whether the team shards.
    """
    context, port = torch.multiprocessing.get_context("fork"), free_port()
    answers = context.SimpleQueue()
    started = [
        context.Process(target=learn_in, args=(rank, processes, port, answers, out, steps, batch, resume, method, more))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
        assert process.exitcode == 0
    losses, everyone = answers.get()
    assert [told for told, _ in everyone] == [len(losses), *[0] * (processes - 1)]  # the first alone tells
    assert len({tuple(weights) for _, weights in everyone}) == 1  # the base is as it was, everywhere
    return losses


def learn_in(rank, count, port, answers, out, steps, batch, resume, method, more):
    """What a process of torchrun's does."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    model, shards, masks = more.pop("model", tiny_model)(), more.pop("shards", False), more.pop("masks", None)
    team, losses = Team.join(torch.device("cpu"), shards), []
    numbers = {"learning_rate": 1e-3, **SIZES, **more}
    config = learn_config(method, "sd21", "cat", steps=steps, batch=batch, **numbers)
    learn(
        model,
        [paint((64, 64), i) for i in range(3)],
        config,
        out,
        progress=False,
        resume=resume,
        keep_checkpoint=True,
        masks=masks,
        on_step=lambda _, loss: losses.append(loss),
        team=team,
    )
    sums = [parameter.double().sum().item() for parameter in model.unet.parameters()]
    everyone = team.gather((len(losses), sums))
    if team.leads:
        answers.put((losses, everyone))


def in_two(function, *arguments, shards=False):
    """Run it in two processes, with the team that each has joined; an assertion may fail in either."""

    def joined(rank, port):
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        function(Team.join(torch.device("cpu"), shards), *arguments)
        dist.destroy_process_group()

    context, port = torch.multiprocessing.get_context("fork"), free_port()
    started = [context.Process(target=joined, args=(rank, port)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
        assert process.exitcode == 0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def torchrun(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}


def test_two_processes_learn_what_one_does_with_twice_the_batch(tmp_path):
    one = learnt(tmp_path / "one", 1, 2, 2)
    two = learnt(tmp_path / "two", 2, 1, 1) + learnt(tmp_path / "two", 2, 2, 1, True)  # stopped and resumed
    assert two == pytest.approx(one, rel=1e-5)  # sums in another order
    assert one[0] != pytest.approx(one[1], rel=1e-3)
    config = learn_config("dreambooth", "sd21", "cat", steps=3, learning_rate=1e-3, **SIZES)
    with pytest.raises(ValueError, match="batch was 2 and is 1"):
        learn(tiny_model(), [paint((64, 64), i) for i in range(3)], config, tmp_path / "two", resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dreambooth", "lora"])
def test_resumed_runs_of_processes(tmp_path, method):
    two = learnt(tmp_path / "two", 2, 4, 1, method=method)
    again = learnt(tmp_path / "again", 2, 2, 1, method=method)
    assert again + learnt(tmp_path / "again", 2, 4, 1, True, method) == two  # bit for bit
    other = learnt(tmp_path / "again", 1, 6, 2, True, method)  # and goes on with another number of processes
    assert other == pytest.approx(learnt(tmp_path / "two", 2, 6, 1, True, method), rel=1e-5)


def test_each_computes_its_share_of_the_rows():
    rows = Rows(*(torch.arange(6) for _ in Rows._fields))
    assert [Team(i, 3).share(rows).t.tolist() for i in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert ALONE.share(rows).t.tolist() == list(range(6))


def check_averages(team):
    wide, lone, without = (torch.nn.Parameter(torch.zeros(size)) for size in ((3, 2), (5,), (1,)))
    for parameter in (wide, lone):
        parameter.grad = torch.full_like(parameter, float(team.rank)) + torch.arange(parameter.numel()).view_as(
            parameter
        )
    team.average([wide, without, lone])
    for parameter in (wide, lone):
        assert torch.equal(parameter.grad, 0.5 + torch.arange(parameter.numel()).view_as(parameter))
    assert without.grad is None
    device = torch.device("cpu")
    assert team.first(team.rank + 0.25, device) == 0.25 and team.mean(team.rank, device) == 0.5
    assert team.any(team.leads, device) and not team.any(False, device) and team.gather(team.rank) == [0, 1]


@pytest.mark.parametrize("at_once", [2**25, 7, 1])
def test_what_processes_tell_each_other(monkeypatch, at_once):
    """Gradients go all together, some together, and each by itself."""
    monkeypatch.setattr("train.parallel.SENT_AT_ONCE", at_once)
    in_two(check_averages)


def test_gradients_are_sent_so_many_together(monkeypatch):
    monkeypatch.setattr("train.parallel.SENT_AT_ONCE", 7)
    sizes = [[len(tensor) for tensor in one] for one in _batches(map(torch.zeros, (3, 4, 1, 9, 2)))]
    assert sizes == [[3, 4], [1], [9], [2]] and not list(_batches([]))


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device("cuda") == "cuda" and own_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cuda") == "cuda:3" and own_device("cuda:1") == "cuda:1" and own_device("cpu") == "cpu"


FAILING = """
import os, sys
from photoswap.__main__ import TOLD_BY_NOW, _first_to_tell, main
from train.learner import Learner
step = Learner.step
def fail(self):
    if os.environ["RANK"] == "1" and self.done == 1:
        raise ValueError("the second process has had enough")
    return step(self)
Learner.step = fail
sys.exit(main())
"""


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_with_one_sentence(tiny, pictures, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    learn = ["learn", pictures / "references", *LEARN, *tiny, "--out", tmp_path / "out"]
    command = [*torchrun(2), str(script), *map(str, learn)]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode != 0
    told = [line for line in run.stderr.splitlines() if line.startswith("photoswap: ")]
    assert told == ["photoswap: the second process has had enough"]
    assert "concept.safetensors" not in files(tmp_path / "out")


@pytest.mark.slow
def test_the_command_in_two_processes(tiny, pictures, tmp_path):
    learn = ["learn", str(pictures / "references"), *LEARN, *tiny, "--batch"]
    assert main([*learn, "2", "--out", str(tmp_path / "one")]) == 0
    command = [*torchrun(2), "-m", "photoswap", *learn, "1", "--out", str(tmp_path / "two")]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=True)
    assert run.stdout == f"{tmp_path / 'two' / 'concept.safetensors'}\n"
    one, two = (load_file(tmp_path / name / "concept.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-6)  # two steps at 1e-6
    typo = [*torchrun(2), "-m", "photoswap", *learn, "many"]
    run = subprocess.run(typo, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.stderr.count("photoswap: ") == 1 and "'many' is out of bounds" in run.stderr


@pytest.mark.parametrize(("rank", "waits"), [(None, 0), ("0", 0), ("1", TOLD_BY_NOW)])
def test_those_who_are_not_the_first_wait_before_they_tell(monkeypatch, rank, waits):
    waited = []
    monkeypatch.setattr("photoswap.__main__.time.sleep", waited.append)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert _first_to_tell() and sum(waited) == waits
