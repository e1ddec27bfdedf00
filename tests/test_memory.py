"""train.memory: what learning takes, counted without taking it, is what it takes."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from benchmarks.measure import peak_bytes
from test_dreambooth import QUICK, build, learner_of, pictures, rows_of, run, same
from test_learning_methods import CASES
from tiny_model import tiny_config

import models.free_memory
import train.memory
from models.config import MINIATURE, SD15, SD21_BASE
from models.free_memory import free_bytes
from train.config import learn_config
from train.data import Stream
from train.memory import ALLOWANCE, far_above, memory_of, recomputes
from train.methods import method_of

CPU, SIDE, GIB = torch.device("cpu"), 128, 2**30
SOME = ("dreambooth", "textual-inversion")  # the others cost as much again


def taken(config) -> tuple[int, int, int]:
    """Bytes that a step really takes at its highest, that the moments have, and the gradients."""
    model = build()
    subjects = [pictures() for _ in config.tokens]
    examples = method_of(config).examples(model, config, SIDE, subjects)
    classes = rows_of(model, 1, SIDE) if config.prior_weight else None
    learner = learner_of(model, config, Stream(examples, 1000, 0), classes)
    learner.step()
    learner.optimizer.zero_grad(set_to_none=True)
    rows = learner.next_rows()
    learner.next_rows, learner.ahead.prepare = lambda: rows, lambda: None  # pictures are encoded at another moment
    step = peak_bytes(learner.step)
    moments = sum(value.nbytes for kept in learner.optimizer.state.values() for value in kept.values())
    return step, moments, sum(p.grad.nbytes for p in learner.parameters.values() if p.grad is not None)


@pytest.mark.parametrize(
    "name", [case if case in SOME else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_what_is_counted_is_what_is_taken(name):
    """In bytes; 5% for prompts, of which rows may share one, and for what products of thin matrices copy inside."""
    config = replace(CASES[name], batch=3, size=SIDE)
    counted = memory_of(tiny_config(), config, SIDE, 2, CPU)
    for recomputed, step in counted.step.items():
        found, moments, gradients = taken(replace(config, gradient_checkpointing=recomputed))
        assert step.gradients + step.activations == pytest.approx(found, rel=0.05)
        assert (counted.moments, counted.gradients) == (moments, gradients)
        if name == "dreambooth":
            assert step.gradients + step.activations == found
    share = counted.step[True].kept / counted.step[False].kept
    assert share < (0.9 if name.startswith("custom") else 0.5)  # blocks with hooks, as it has, are not recomputed


@cache
def counted_of(config, kind="cpu"):
    return memory_of(tiny_config(), config, 64, 2, torch.device(kind))


RANDOM = replace(CASES["lora"], random_crop=True, sample_every=1, bfloat16=True)


def test_the_parts_are_the_models_and_the_methods():
    numbers = sum(p.numel() for net in build().networks.values() for p in net.parameters())
    lora = counted_of(RANDOM)
    learning = sum(torch.Size(shape).numel() for shape in method_of(RANDOM).shapes(build(), RANDOM).values())
    assert (lora.networks, lora.beside, lora.gradients) == (4 * numbers, 4 * learning, 4 * learning)
    assert lora.text == 4 * 77 * 24 and lora.given_back == 0
    assert set(lora.before) == {"encoding pictures"}
    assert set(lora.between) == {"encoding a picture", "drawing a sample picture"}
    step = lora.step[True].gradients + lora.step[True].activations
    learning = lora.held + max(lora.gradients + max(lora.between.values()), step)
    assert lora.total(True) == max(lora.networks + lora.before["encoding pictures"], learning)
    assert lora.fits(lora.total(True) + ALLOWANCE, True) and not lora.fits(lora.total(True) + ALLOWANCE - 1, True)


def test_norms_stay_in_float32_under_autocast_on_a_gpu():
    assert counted_of(RANDOM).step[False].kept < counted_of(RANDOM, "cuda").step[False].kept


def test_weights_to_give_back_count_where_they_are():
    config = replace(QUICK, token_steps=1)
    here, there = (counted_of(config, kind) for kind in ("cpu", "cuda"))
    assert here.given_back == here.gradients and there.given_back == 0
    assert here.total(False) - there.total(False) == here.given_back
    assert set(here.before) == {"encoding pictures", "drawing class pictures"}
    assert far_above(tiny_config(), config, 64, here.gradients // 4) > here.total(False) - here.networks


@pytest.mark.parametrize(
    ("free", "asked", "wanted"), [(0, None, True), (GIB**2, None, False), (GIB**2, True, True), (0, False, False)]
)
def test_activations_are_recomputed_where_there_is_no_room(monkeypatch, free, asked, wanted):
    monkeypatch.setattr(train.memory, "free_bytes", lambda _: free)
    counted = []
    no_room = SimpleNamespace(networks=0, fits=lambda free, recomputed: counted.append((free, recomputed)))
    monkeypatch.setattr(train.memory, "memory_of", lambda *_: no_room)
    assert recomputes(build(), replace(QUICK, gradient_checkpointing=asked), 64, 2, 10**6) is wanted
    assert counted == [(0, False)] * (asked is None and not free)


def test_recomputing_changes_no_bit_and_a_run_goes_on_either_way(tmp_path, monkeypatch):
    config = replace(QUICK, steps=3, checkpoint_every=1)
    whole, losses = run(build(), config, tmp_path / "whole")
    monkeypatch.setattr("train.learn.recomputes", lambda *_: True)
    run(build(), replace(config, steps=2), tmp_path / "parts", keep_checkpoint=True)
    monkeypatch.undo()
    parts, rest = run(build(), config, tmp_path / "parts", resume=True)
    assert rest == losses[2:] and same(whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize("model", [MINIATURE, SD15, SD21_BASE], ids=lambda model: model.name)
@pytest.mark.parametrize("method", ["dreambooth", "lora"])
def test_nothing_is_counted_where_far_more_would_fit(model, method):
    """The bound in closed form is far above what is counted, for the published sizes too."""
    for bfloat16 in (False, True):
        config = learn_config(method, model.name, "cat", bfloat16=bfloat16)
        counted = memory_of(model, config, model.native_size, 5, torch.device("cuda"))
        bound = far_above(model, config, model.native_size, counted.gradients // 4)
        assert bound > 1.3 * (counted.total(False) - counted.networks)


def test_free_memory_is_what_the_system_says(tmp_path, monkeypatch):
    assert 2**20 < free_bytes(CPU) < 2**50
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  3000 kB\n")
    monkeypatch.setattr(models.free_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(models.free_memory, "GROUP", tmp_path)
    assert free_bytes(CPU) == 3000 * 1024
    for name, text in {"max": "900000", "current": "500000", "stat": "file 7\ninactive_file 100\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_bytes(CPU) == 400_100
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) == 3000 * 1024
