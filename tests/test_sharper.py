"""Learning with masks: what the losses look at, resuming, and one picture for every class."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from test_dreambooth import QUICK, build, learner_of, pictures, run, same

from models.hooks import Hook, reading
from train.config import LoRAConfig
from train.data import CentreCrops, Stream
from train.encoded import Encoded
from train.learn import _examples, learn
from train.loss import squared_error

ALONE = replace(QUICK, prior_weight=0.0, batch=2)
BOTH = {"mask_loss": True, "attention_loss": 0.5}


def masks(count: int = 2, at: int = 20) -> list[Image.Image]:
    """Of `pictures`: a square in each."""
    found = [Image.new("L", (80, 70)) for _ in range(count)]
    for i, mask in enumerate(found):
        mask.paste(255, (at + i, 20, at + 30 + i, 60))
    return found


def stream(model, seed: int = 0, with_masks: bool = True) -> Stream:
    examples = CentreCrops(model, pictures(), 64, masks=masks() if with_masks else None)
    return Stream(examples, 1000, seed)


@torch.no_grad()
def test_the_masked_loss_is_published_formula_on_the_subjects_rows_alone(device):
    model = build(device)
    learner = learner_of(model, replace(QUICK, batch=2, mask_loss=True), stream(model), stream(model, 1, False))
    rows = learner.next_rows()
    assert 0 < rows.subject[:2].mean() < 1 and rows.subject[2:].all()
    output, target = learner.output(rows), model.schedule.target(rows.x0.to(device), rows.eps.to(device), rows.t)
    wanted = 0.0
    for i in range(2):
        for c in range(4):
            mask = rows.subject[i, 0].to(device)
            wanted += (output[i, c] * mask - target[i, c] * mask).square().mean().item() / 8
    wanted += squared_error(output[2:], target[2:]).mean().item()
    assert learner.loss(rows).item() == pytest.approx(wanted, rel=1e-6)


def test_nothing_outside_the_masks_moves_a_masked_loss(device):
    """The gradient with respect to the output, by the place."""
    model = build(device)
    learner = learner_of(model, replace(ALONE, mask_loss=True), stream(model))
    rows = learner.next_rows()
    kept = []
    output = model.unet.conv_out.register_forward_hook(lambda _, __, out: kept.append(out) or out.retain_grad())
    learner.loss(rows).backward()
    output.remove()
    gradient = kept[0].grad.abs().sum(1, keepdim=True).cpu()
    assert (gradient[rows.subject == 0] == 0).all() and (gradient[rows.subject > 0] > 0).all()


@torch.no_grad()
def test_the_attention_loss_is_added_by_its_weight_and_looks_at_the_token_alone(device):
    model = build(device)
    config = replace(ALONE, instance_prompt="a sks cat")
    learners = [learner_of(model, replace(config, attention_loss=w), stream(model)) for w in (0.0, 0.5)]
    rows = learners[0].next_rows()
    maps = []
    hook = Hook(map=reading(maps.append))
    sites = [site for site in model.unet.sites if site.kind == "cross" and site.stage != "mid" and site.scale == 1]
    learners[0].placed.hooks.update(dict.fromkeys(sites, hook))
    without = learners[0].loss(rows).item()
    heat = torch.cat(maps, dim=1)[..., 2].mean(1)  # start, a, sks
    heat = heat / heat.amax(1, keepdim=True)
    added = (heat - rows.subject.flatten(1).to(heat)).square().mean().item()
    assert learners[1].loss(rows).item() == pytest.approx(without + 0.5 * added, rel=1e-6)


def test_the_attention_loss_brings_the_words_map_to_the_mask(device):
    """Alone, on one row that is always the same."""
    model = build(device)
    learner = learner_of(model, replace(ALONE, attention_loss=1000.0, learning_rate=3e-3), stream(model))
    rows = learner.next_rows()
    learner.next_rows = lambda: rows
    losses = [learner.step() for _ in range(25)]
    assert losses[-1] < 0.5 * losses[0]


def test_masks_are_mirrored_with_their_pictures():
    left = [Image.new("L", (80, 70)) for _ in range(2)]
    for mask in left:
        mask.paste(255, (0, 0, 40, 70))
    config = replace(ALONE, mirror=True, mask_loss=True)
    examples = _examples(build(), config, 64, pictures(), left, Encoded())
    sides = [examples.draw(i, torch.Generator()).subject.split(4, dim=2) for i in range(4)]
    assert [bool((a > b).all()) for a, b in sides] == [True, True, False, False]
    assert [bool((a < b).all()) for a, b in sides] == [False, False, True, True]


@pytest.mark.parametrize("changes", [BOTH, {**BOTH, "random_crop": True, "mirror": True, "prior_weight": 0.0}])
def test_masked_learning_resumes_bit_for_bit(tmp_path, changes):
    config = replace(QUICK, size=64, checkpoint_every=2, **changes)
    whole, losses = run(build(), config, masks=masks())
    run(build(), replace(config, steps=2), tmp_path, masks=masks(), keep_checkpoint=True)
    resumed, rest = run(build(), config, tmp_path, masks=masks(), resume=True)
    assert same(whole, resumed) and rest == losses[2:]
    with pytest.raises(ValueError, match="begun with other references"):
        run(build(), replace(config, steps=2), tmp_path / "other", masks=masks(), keep_checkpoint=True)
        run(build(), config, tmp_path / "other", masks=masks(at=21), resume=True)


def test_masks_and_the_losses_that_want_them_go_together():
    with pytest.raises(ValueError, match="masks change nothing"):
        run(build(), QUICK, masks=masks())
    with pytest.raises(ValueError, match="give the masks too"):
        run(build(), replace(QUICK, mask_loss=True))


def test_lora_learns_with_masks_too():
    """The gradient of the factors, where the token looks, is not that without the attention loss."""
    gradients = []
    for weight in (0.0, 0.5):
        model = build(dtype=torch.float64)
        config = LoRAConfig("cat", size=64, batch=2, rank=2, mask_loss=True, attention_loss=weight)
        learner = learner_of(model, config, stream(model))
        learner.loss(learner.next_rows()).backward()
        gradients.append(
            {name: p.grad for name, p in learner.parameters.items() if name.endswith("attn2.to_k.weight/up")}
        )
    assert gradients[0] and all((g - gradients[1][name]).abs().max() > 0 for name, g in gradients[0].items())


def test_recomputed_activations_give_the_same_attention_loss():
    plain, recomputed = (
        run(build(dtype=torch.float64), replace(QUICK, gradient_checkpointing=c, **BOTH), masks=masks())[1]
        for c in (False, True)
    )
    assert plain == pytest.approx(recomputed, rel=1e-6)


def test_every_seed_shares_the_pictures_of_the_class(tmp_path, monkeypatch):
    shared = tmp_path / "class"
    run(build(), QUICK, class_folder=shared)
    monkeypatch.setattr("train.prior.sample_pictures", lambda *_: pytest.fail("drawn again"))
    learn(build(), pictures(), replace(QUICK, seed=7), progress=False, class_folder=shared)


FIRST = replace(QUICK, steps=5, token_steps=3, token_learning_rate=0.02, weight_decay=0.5, clip=0.0)


def test_at_first_the_token_alone_learns(device):
    """Bit for bit, over all tensors of the model; the token's row by AdamW without decay, written out."""
    model = build(device, torch.float64)
    config = replace(FIRST, betas=(0.7, 0.9), epsilon=0.1)
    before = {name: t.clone() for net in ("unet", "vae", "text_encoder") for name, t in tensors_of(model, net).items()}
    learner = learner_of(model, config, stream(model), stream(model, 1))
    (own,) = (token for token, _ in model.tokenizer.words("sks"))
    table = model.text_encoder.token_embedding.weight
    row, first, second = table[own].detach().clone(), torch.zeros_like(table[own]), torch.zeros_like(table[own])
    for step in (1, 2, 3):
        learner.step()
        gradient = table.grad[own]
        first, second = 0.7 * first + 0.3 * gradient, 0.9 * second + 0.1 * gradient.square()
        row = row - 0.02 * (first / (1 - 0.7**step)) / ((second / (1 - 0.9**step)).sqrt() + 0.1)
        torch.testing.assert_close(table[own].detach(), row, rtol=1e-9, atol=1e-12)
        for net in ("unet", "vae", "text_encoder"):
            for name, tensor in tensors_of(model, net).items():
                same_rows = (tensor == before[name]).flatten(1).all(1) if tensor.dim() > 1 else tensor == before[name]
                moved = (~same_rows).nonzero().flatten().tolist()
                assert moved == ([own] if name == "text_encoder.token_embedding.weight" else []), name
    learner.step()
    still = {
        name for net in ("unet", "text_encoder") for name, t in tensors_of(model, net).items() if t.equal(before[name])
    }
    assert still == set()
    assert all(state["step"] == 1 for state in learner.optimizer.state.values())


def test_rows_of_the_class_have_nothing_to_say_to_the_token(device):
    """The first phase leaves them out: the token's gradient is that of all rows, from half the work."""
    model = build(device, torch.float64)
    rows = stream(model).next_rows(QUICK.batch)
    rows = rows.join(stream(model, 1).next_rows(QUICK.batch)._replace(text=torch.ones(QUICK.batch, dtype=torch.long)))
    learner = learner_of(model, FIRST, stream(model), stream(model, 1))
    table = model.text_encoder.token_embedding.weight
    (wanted,) = torch.autograd.grad(learner.loss(rows), table)
    seen = []
    with model.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))):
        learner.step()
    (own,) = (token for token, _ in model.tokenizer.words("sks"))
    torch.testing.assert_close(table.grad[own], wanted[own], rtol=1e-9, atol=1e-15)
    assert wanted[own].abs().max() > 0 and seen == [QUICK.batch]


def tensors_of(model, net: str) -> dict[str, torch.Tensor]:
    return {f"{net}.{name}": tensor.detach() for name, tensor in getattr(model, net).state_dict().items()}


@pytest.mark.parametrize("stopped", [1, 3, 4])  # before, between and after
def test_both_phases_resume_bit_for_bit(tmp_path, stopped):
    whole, losses = run(build(), FIRST)
    run(build(), replace(FIRST, steps=stopped, checkpoint_every=stopped), tmp_path, keep_checkpoint=True)
    resumed, rest = run(build(), FIRST, tmp_path, resume=True)
    assert same(whole, resumed) and rest == losses[stopped:]


def test_a_token_wants_a_text_encoder_that_learns():
    with pytest.raises(ValueError, match="wants train_text_encoder"):
        run(build(), replace(FIRST, train_text_encoder=False))
