"""Every method against its slow version, on the golden network in float64, and the list of methods.

After 50 guided steps the two agree to 1e-13 or so; settings that break one rule land elsewhere. By default few steps
are taken; `pytest tests/test_methods.py -m slow` takes 50.
"""

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from oracle import LocalBlend, released_swap
from slow_methods import SlowMap, SlowMasaCtrl, SlowPlugAndPlay, SlowPromptToPrompt, plug_and_play
from test_oracle import WholeWords
from test_oracle import model_of as oracle_s_model
from tiny import distance

from photoswap.blend import Blend
from photoswap.methods import METHODS, FreePromptEditing, MasaCtrl, PlugAndPlay, PromptToPrompt
from photoswap.pictures import Picture
from photoswap.side_by_side import side_by_side
from photoswap.tokens import align_words, subject_tokens
from samplers import Schedule

SOURCE, INSERTED, REPLACED = "a photo of a cat on a mat", "a photo of a sks cat on a mat", "a photo of a dog on a rug"
SIZE, TOLERANCE, ELSEWHERE = (16, 16), 1e-10, 1e-5
FEW = 8
LAYER = 6  # of the golden network's ten; MasaCtrl's tenth of sixteen is beyond them
STEPS = [FEW, pytest.param(50, marks=pytest.mark.slow)]
WIDTH = 24  # columns of a context


def model_of(prediction="eps"):
    """The golden network of test_oracle.py, whose words are tokens and whose cross-attention is sharpened."""
    return oracle_s_model(prediction, WIDTH, torch.float64)


TOKENIZER = model_of().tokenizer


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@cache
@torch.no_grad()
def material(steps, target):
    """Noise, a null context for each step, the contexts of source and target, and where the source stood before."""
    empty, contexts = model_of().encode_text(""), model_of().encode_text([SOURCE, target])
    nulls = empty + 0.1 * drawn(steps, *empty.shape[1:], seed=1)
    return drawn(1, 4, *SIZE, seed=0), nulls, contexts, drawn(steps, 4, *SIZE, seed=2)


def left(columns):
    return (torch.arange(SIZE[1]) < columns).expand(SIZE)


MASKS = (left(8), left(11))


def ours(method, prediction="eps", target=INSERTED):
    """The target's latents by our loop; the source follows its own estimate of the noise."""
    noise, nulls, contexts, _ = material(method.steps, target)
    word = "sks" if target == INSERTED else "dog"
    alignments = method.alignments(TOKENIZER, SOURCE, target)
    source = Picture(
        noise, contexts[:1], nulls, words=subject_tokens(TOKENIZER, SOURCE, "cat"), masks={"subject": MASKS[0]}
    )
    pictures = {
        "source": source,
        "target": Picture(
            noise,
            contexts[1:],
            nulls,
            words=subject_tokens(TOKENIZER, target, word),
            alignments=alignments,
            masks={"subject": MASKS[1]},
        ),
    }
    *_, last = side_by_side(model_of().unet, Schedule(prediction=prediction), pictures, method)
    return last.latents["target"]


def slow(control, prediction="eps", target=INSERTED, blend=None):
    noise, nulls, contexts, _ = material(control.steps, target)
    return released_swap(model_of().unet, noise, nulls, contexts, control, blend, prediction)[1:]


def refined(target):
    """By hand: where the prompts agree a column is the source's, a word the source lacks keeps its own."""
    if target == REPLACED:
        return [None if j in (5, 8) else [(1.0, j)] for j in range(WIDTH)]
    return [None if j == 5 else [(1.0, j - (5 < j <= 10))] for j in range(WIDTH)]


ONE_FOR_ONE = [[(1.0, j)] for j in range(WIDTH)]


P2P = {
    "refine": (PromptToPrompt, {}, INSERTED, refined(INSERTED), {}),
    "replace": (PromptToPrompt, {"edit": "replace"}, REPLACED, ONE_FOR_ONE, {}),
    "refine a replacement": (PromptToPrompt, {}, REPLACED, refined(REPLACED), {}),
    "reweight": (
        PromptToPrompt,
        {"equalizer": (("sks", 2.0), ("mat", -1.0))},
        INSERTED,
        refined(INSERTED),
        {5: 2.0, 9: -1.0},
    ),
}


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", P2P)
def test_prompt_to_prompt(kind, steps, prediction):
    method, settings, target, pairs, equalizer = P2P[kind]
    control = SlowPromptToPrompt(model_of().unet, steps, SIZE, pairs, 0.8, 0.4, equalizer)
    assert (
        distance(ours(method(steps=steps, **settings), prediction, target), slow(control, prediction, target))
        < TOLERANCE
    )


@pytest.mark.parametrize("steps", STEPS)
def test_prompt_to_prompt_with_its_blend(steps):
    blend = LocalBlend(model_of().unet, [SOURCE, INSERTED], ["cat", "sks"], steps, WIDTH, 0.8)
    control = SlowPromptToPrompt(model_of().unet, steps, SIZE, refined(INSERTED), 0.8, 0.4)
    method = PromptToPrompt(steps=steps, blend=Blend(threshold=0.8))
    assert distance(ours(method), slow(control, blend=blend)) < TOLERANCE
    assert any(0 < mask.double().mean() < 1 for mask in blend.masks)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("steps", STEPS)
def test_free_prompt_editing(steps, prediction):
    control = SlowMap(model_of().unet, steps, SIZE, 0.8)
    assert distance(ours(FreePromptEditing(steps=steps), prediction), slow(control, prediction)) < TOLERANCE


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", ["plain", "union", "mask"])
def test_masactrl(kind, steps, prediction):
    control = SlowMasaCtrl(model_of().unet, steps, SIZE, 4, LAYER, kind == "union", MASKS if kind == "mask" else None)
    method = MasaCtrl(steps=steps, layer=LAYER, kind=kind)
    assert distance(ours(method, prediction), slow(control, prediction)) < TOLERANCE


def our_plug_and_play(method, prediction="eps"):
    _, nulls, contexts, stored = material(method.steps, INSERTED)
    told_nothing, away = contexts[:1], nulls[:1]
    # the source stands at stored[i] before step i; behind the last it stands anywhere
    known = torch.cat([stored[1:], stored[:1]])
    pictures = {
        "source": Picture(stored[:1], told_nothing, known=known),
        "target": Picture(stored[:1], contexts[1:], away),
    }
    moments = list(side_by_side(model_of().unet, Schedule(prediction=prediction), pictures, method))
    return moments[-1].latents["target"], [len(moment.rows) for moment in moments]


def slow_plug_and_play(steps, prediction="eps", attention=0.5, features=0.8, first=5, block=9):
    _, nulls, contexts, stored = material(steps, INSERTED)
    control = SlowPlugAndPlay(model_of().unet, steps, SIZE, attention, features, first, block)
    return plug_and_play(
        model_of().unet, stored, torch.cat([contexts[:1], nulls[:1], contexts[1:]]), control, prediction
    )


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("steps", STEPS)
def test_plug_and_play(steps, prediction):
    """In the golden network up.1.1 is the fifth self-attention and the ninth residual block, counted from 0."""
    got, rows = our_plug_and_play(PlugAndPlay(steps=steps), prediction)
    assert distance(got, slow_plug_and_play(steps, prediction)) < TOLERANCE
    ends = int(0.8 * steps)
    assert rows == [3] * ends + [2] * (steps - ends)


BROKEN = [
    (PromptToPrompt(steps=FEW), {"edit": "replace"}),
    (PromptToPrompt(steps=FEW), {"cross_replace_steps": 0.6}),
    (PromptToPrompt(steps=FEW), {"cross_replace_steps": 0.9}),
    (PromptToPrompt(steps=FEW), {"self_replace_steps": 0.3}),
    (PromptToPrompt(steps=FEW), {"self_replace_steps": 0.5}),
    (PromptToPrompt(steps=FEW), {"equalizer": (("cat", 1.1),)}),
    (PromptToPrompt(steps=FEW), {"blend": Blend(threshold=0.8)}),
    (FreePromptEditing(steps=FEW), {"self_replace_steps": 0.7}),
    (MasaCtrl(steps=FEW, layer=LAYER), {"step": 3}),
    (MasaCtrl(steps=FEW, layer=LAYER), {"step": 5}),
    (MasaCtrl(steps=FEW, layer=LAYER), {"layer": LAYER - 1}),
    (MasaCtrl(steps=FEW, layer=LAYER), {"layer": LAYER + 1}),
    (MasaCtrl(steps=FEW, layer=LAYER), {"kind": "union"}),
    (MasaCtrl(steps=FEW, layer=LAYER), {"kind": "mask"}),
]


@pytest.mark.parametrize(
    ("method", "change"), BROKEN, ids=lambda x: type(x).__name__ if not isinstance(x, dict) else str(x)
)
def test_each_setting_counts(method, change):
    target = REPLACED if change.get("edit") else INSERTED
    assert distance(ours(replace(method, **change), target=target), ours(method, target=target)) > ELSEWHERE


@pytest.mark.parametrize("change", [{"attention": 0.4}, {"features": 0.7}, {"first": 6}, {"block": 8}])
def test_each_rule_of_plug_and_play_counts(change):
    got, _ = our_plug_and_play(PlugAndPlay(steps=FEW))
    assert distance(got, slow_plug_and_play(FEW, **change)) > ELSEWHERE


class Pieces(WholeWords):
    """Words of more than one token: as many as they have letters, where they end in "s"."""

    def words(self, text):
        return [
            (self.ids.setdefault(piece, len(self.ids) + 1), piece)
            for word in text.split()
            for piece in (list(word) if word.endswith("s") else [word])
        ]


def test_a_word_of_one_token_replaced_by_three_leaves_source_columns_out():
    """Each of the three takes a third of the one; behind them columns pair by the target's index."""
    taken = align_words(Pieces(16), "a photo of a cat on mat", "a photo of a sks on mat").taken
    assert taken[5, 5:8].tolist() == [pytest.approx(1 / 3)] * 3
    assert taken[6].sum() == taken[7].sum() == 0
    assert taken[range(8, 16), range(8, 16)].tolist() == [1] * 8 and taken.sum() == pytest.approx(5 + 1 + 8)


def test_a_word_of_three_tokens_replaced_by_one_and_by_three():
    shorter = align_words(Pieces(16), "a sks on mat", "a cat on mat").taken
    assert shorter[2:5, 2].tolist() == [1] * 3 and shorter[3, 3] == 1  # three columns added up
    same = align_words(Pieces(16), "a sks on mat", "a sas on mat").taken
    assert torch.equal(same, torch.eye(16))


def test_between_two_replaced_words_columns_keep_their_places():
    taken = align_words(Pieces(16), "a cat on mat", "a sks on rug").taken
    assert taken[2, 2:5].tolist() == [pytest.approx(1 / 3)] * 3
    assert taken[3, 5] == 1 and taken[4, 6] == 1 and taken[7, 7] == 1


@pytest.mark.parametrize(
    "make", [lambda: align_words(TOKENIZER, "a cat", "a sks cat"), lambda: align_words(WholeWords(4), "a b c", "a b d")]
)
def test_prompts_that_cannot_be_replaced_are_refused(make):
    with pytest.raises(ValueError, match=r"has 2 words and .* 3; replacement wants as many|want at most 4"):
        make()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_page_of_data(name):
    """At most 60 lines, importing nothing that runs, with settings that a command line can give."""
    import ast
    import inspect
    from pathlib import Path

    path = Path(inspect.getfile(METHODS[name]))
    assert len(path.read_text().splitlines()) <= 60
    modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    allowed = {"injections", "method", "methods", "blend", "tokens", "pictures"}
    assert all(module.split(".")[1] in allowed for module in modules if module and module.startswith("photoswap."))
    method = METHODS[name]()
    assert method.steps == {"inversion-free": 12}.get(name, 50)
    assert {field.name for field in fields(method)} >= {"steps", "guidance_scale"}
    assert METHODS[name].scaled(20).steps == 20 and METHODS[name].__doc__


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PromptToPrompt(edit="swap"), '"replace" or "refine"'),
        (lambda: PromptToPrompt(cross_replace_steps=1.5), r"cross_replace_steps is 1\.5; want a share"),
        (lambda: FreePromptEditing(self_replace_steps="x"), "self_replace_steps is x; want a share"),
        (lambda: MasaCtrl(step=-1), "step is -1 and layer 10"),
        (lambda: MasaCtrl(kind="auto"), '"plain", "union" or "mask"'),
        (lambda: PlugAndPlay(pnp_f_t=-0.1), r"pnp_f_t is -0\.1"),
    ],
)
def test_senseless_settings_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
