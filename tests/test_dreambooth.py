"""train.learn: a tiny network learns, what is frozen stays, and a stopped run is as if never stopped."""

import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from left_open import LEFT_OPEN
from PIL import Image
from spoiled import contents, put
from tiny_model import tiny_model

from train.concepts import apply_concept, load_concept
from train.config import DreamBoothConfig
from train.data import CentreCrops, Stream
from train.learn import CHECKPOINT_FILE, learn
from train.learner import Learner
from train.methods import DreamBooth
from train.prior import SampleSettings
from train.ready import ready_to_learn
from weights import fingerprint
from weights.atomic import HIDDEN
from weights.load import networks_of

CONCEPT_FILE = DreamBooth.file
QUICK = DreamBoothConfig(
    "cat", size=64, steps=4, learning_rate=1e-3, class_pictures=2, class_steps=2, class_guidance=1.0
)


def build(device="cpu", dtype=torch.float32):
    model = tiny_model()
    for network in networks_of(model).values():
        network.to(device, dtype)
    return model


@pytest.fixture
def model(device):
    return build(device)


def pictures(count: int = 2) -> list[Image.Image]:
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((80, 70)) for _ in range(count)]


def run(model, config, out=None, references=None, **more):
    """Learn quietly; the concept and the losses."""
    losses = []
    more = {"on_step": lambda _, loss: losses.append(loss), **more}
    return learn(model, references or pictures(), config, out, progress=False, **more), losses


def same(a, b) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


def learner_of(model, config, instances, classes=None) -> Learner:
    """A learner in a model that stays ready to learn until the test ends."""
    return Learner(model, config, LEFT_OPEN.enter_context(ready_to_learn(model, config)), instances, classes)


@torch.no_grad()
def error(model, config) -> float:
    """The loss on 32 rows that are always the same."""
    stream = Stream(CentreCrops(model, pictures(1), 64, sample=False), 1000, seed=77)
    return loss_of(learner_of(model, replace(config, batch=32), stream)).item()


def loss_of(learner):
    return learner.loss(learner.next_rows())


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_one_picture_is_overfitted(model, prediction):
    model = model.with_schedule(replace(model.schedule, prediction=prediction))
    config = replace(QUICK, steps=120, batch=4, learning_rate=3e-3, prior_weight=0.0)
    concept = learn(model, pictures(1), config, progress=False)
    before, after = error(model, config), error(apply_concept(model, concept), config)
    assert after < before / 4  # measured: eps 1.21 -> 0.11, v 0.59 -> 0.10


@pytest.mark.parametrize("text", [True, False])
def test_only_what_learns_moves_and_the_model_is_given_back_as_it_was(model, text):
    model.unet.requires_grad_(False)
    before = fingerprint(model)
    config = replace(QUICK, train_text_encoder=text, gradient_checkpointing=True)
    moved = []

    def watch(*_):
        assert model.unet.gradient_checkpointing and model.text_encoder.gradient_checkpointing
        assert not any(p.requires_grad for p in model.vae.parameters())
        moved.append({part: network_hash(network) for part, network in networks_of(model).items()})

    concept, _ = run(model, config, on_step=watch)
    assert moved[0]["vae"] == moved[-1]["vae"] == network_hash(model.vae)
    assert (moved[0]["text"] != network_hash(model.text_encoder)) == text
    assert moved[0]["unet"] != moved[1]["unet"] != network_hash(model.unet)
    assert fingerprint(model) == before
    assert not any(p.requires_grad for p in model.unet.parameters()) and not model.unet.gradient_checkpointing
    assert all(p.requires_grad and p.grad is None for p in model.vae.parameters())
    assert {name.split(".")[0] for name in concept.tensors} == ({"unet", "text"} if text else {"unet"})


def network_hash(network) -> float:
    return sum(p.detach().double().sum().item() for p in network.parameters())


def test_every_learning_parameter_gets_a_gradient():
    model = build()
    learner = learner_of(model, QUICK, rows_of(model, size=128), rows_of(model, size=128))
    loss_of(learner).backward()  # at 64 px the middle has one place, and its attention nothing to choose
    for name, parameter in learner.parameters.items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def rows_of(model, seed: int = 0, size: int = 64) -> Stream:
    return Stream(CentreCrops(model, pictures(), size), 1000, seed)


def test_a_model_given_back_after_an_error_is_as_it_was(model):
    before = fingerprint(model)

    def fail(*_):
        raise RuntimeError("caller's own")

    with pytest.raises(RuntimeError, match="caller's own"):
        run(model, QUICK, on_step=fail)
    assert fingerprint(model) == before


# The next tests compare bits; on a GPU, convolutions and attention may add up in another order each time.
@pytest.mark.parametrize("changes", [{}, {"random_crop": True, "accumulate": 2, "train_text_encoder": False}])
def test_resuming_equals_never_having_stopped(tmp_path, changes):
    config = replace(QUICK, steps=5, checkpoint_every=3, **changes)
    whole, losses = run(build(), config, tmp_path / "whole")
    run(build(), replace(config, steps=3), tmp_path / "parts", keep_checkpoint=True)
    resumed, rest = run(build(), config, tmp_path / "parts", resume=True)
    assert rest == losses[3:]
    assert same(whole, resumed)
    files = [tmp_path / name / CONCEPT_FILE for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_ctrl_c_lets_the_step_finish_and_leaves_a_checkpoint(tmp_path):
    whole, losses = run(build(), QUICK)
    model, calls = build(), []

    def press(*_):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    def begin(_, loss):
        if not calls:
            model.unet.conv_in.register_forward_hook(press)
            calls.append(0)

    config = replace(QUICK, sample_every=0)
    with pytest.raises(KeyboardInterrupt):
        run(model, config, tmp_path, on_step=begin)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (tmp_path / CHECKPOINT_FILE).is_file() and not (tmp_path / CONCEPT_FILE).exists()
    resumed, rest = run(build(), config, tmp_path, resume=True)
    assert rest == losses[2:]
    assert same(whole, resumed)


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_last_whole_checkpoint(tmp_path):
    model, calls = build(), []

    def press(*_):
        calls.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    def begin(step, _):
        if step == 2:
            model.unet.conv_in.register_forward_hook(press)

    with pytest.raises(KeyboardInterrupt):
        run(model, replace(QUICK, checkpoint_every=1), tmp_path, on_step=begin)
    assert len(calls) == 1
    _, rest = run(build(), QUICK, tmp_path, resume=True)
    assert len(rest) == QUICK.steps - 2


def test_watching_and_sampling_do_not_change_what_is_learnt(tmp_path):
    quiet, _ = run(build(), QUICK)
    seen = []
    loud, _ = run(
        build(),
        replace(QUICK, sample_every=2, checkpoint_every=1),
        tmp_path,
        on_sample=lambda step, picture: seen.append((step, picture.size)),
    )
    assert same(quiet, loud)
    assert seen == [(2, (64, 64)), (4, (64, 64))]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["00002.png", "00004.png"]
    assert not list(tmp_path.rglob(".*"))


def test_the_seed_decides():
    concepts = [run(build(), replace(QUICK, seed=seed, prior_weight=0.0))[0] for seed in (1, 1, 2)]
    assert same(concepts[0], concepts[1]) and not same(concepts[0], concepts[2])


def test_learning_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    run(build(), QUICK)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("prior_weight", [0.0, 0.7])
def test_accumulating_two_batches_of_one_equals_a_batch_of_two(device, prior_weight):
    if device.type == "mps":
        pytest.skip("no float64 there")
    config = replace(QUICK, steps=3, prior_weight=prior_weight)
    results = [
        run(build(device, torch.float64), replace(config, **split))
        for split in ({"batch": 2, "accumulate": 1}, {"batch": 1, "accumulate": 2})
    ]
    for name, tensor in results[0][0].tensors.items():
        # float64: a mistake in the averaging would show at 1e-3, rounding is far below
        torch.testing.assert_close(tensor, results[1][0].tensors[name], rtol=1e-6, atol=1e-6)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-6)


def test_checkpointed_gradients_are_the_same(device):
    plain, kept = (
        run(build(device, torch.float64), replace(QUICK, gradient_checkpointing=c))[1] for c in (False, True)
    )
    assert plain == pytest.approx(kept, rel=1e-6)


def test_instances_and_class_pictures_share_one_call_of_the_unet(model):
    calls = []
    handle = model.unet.register_forward_pre_hook(lambda _, inputs: calls.append([x.shape[0] for x in inputs]))
    learner = learner_of(model, replace(QUICK, batch=3), rows_of(model), rows_of(model, 1))
    learner.step()
    handle.remove()
    assert calls == [[6, 6, 6]]


def test_the_loss_is_the_papers(model):
    """Written out row by row, each with its own prompt and a call of its own."""
    config = replace(QUICK, batch=2, prior_weight=0.3, min_snr=5.0)
    learner = learner_of(model, config, rows_of(model), rows_of(model, 1))
    with torch.no_grad():
        loss = loss_of(learner)
        wanted = torch.zeros((), device=model.device)
        for stream, prompt, weight in [
            (rows_of(model), "a photo of a sks cat", 0.5),
            (rows_of(model, 1), "a photo of a cat", 0.5 * config.prior_weight),
        ]:
            rows = stream.next_rows(2)
            for x0, eps, t in zip(rows.x0.to(wanted), rows.eps.to(wanted), rows.t, strict=True):
                at = model.schedule.alpha_bar[t].to(wanted)
                noisy = at.sqrt() * x0 + (1 - at).sqrt() * eps
                output = model.unet(noisy[None], int(t), model.encode_text(prompt))[0]
                target = at.sqrt() * eps - (1 - at).sqrt() * x0
                snr = at / (1 - at)
                wanted += weight * snr.clamp(max=5.0) / (snr + 1) * (output - target).square().mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=0)  # float32 network, other batches


def gradient_norm(learner) -> float:
    return sum(p.grad.square().sum().item() for p in learner.parameters.values()) ** 0.5


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_gradients_are_clipped_to_the_norm(clip):
    model = build(dtype=torch.float64)
    learner = learner_of(model, replace(QUICK, clip=clip), rows_of(model))
    learner.step()
    free = gradient_norm(learner)
    if clip:
        assert free == pytest.approx(clip, rel=1e-6)
    else:
        assert free > 1  # measured: 1.6, so that 0.01 above is a clipped one


def test_the_optimizer_is_adamw_with_the_configured_numbers():
    """Every number far from its default, and the update written out (arXiv:1711.05101, algorithm 2)."""
    model = build(dtype=torch.float64)
    rates = {"unet": 2e-3, "text": 5e-3}
    config = replace(
        QUICK,
        learning_rate=rates["unet"],
        text_learning_rate=rates["text"],
        betas=(0.7, 0.9),
        weight_decay=0.5,
        epsilon=0.1,
    )
    learner = learner_of(model, config, rows_of(model))
    parameters = learner.parameters
    wanted = {key: p.detach().clone() for key, p in parameters.items()}
    first, second = ({key: torch.zeros_like(p) for key, p in parameters.items()} for _ in range(2))
    for step in (1, 2, 3):
        learner.step()
        for key, p in parameters.items():
            first[key] = 0.7 * first[key] + 0.3 * p.grad
            second[key] = 0.9 * second[key] + 0.1 * p.grad.square()
            mean, spread = first[key] / (1 - 0.7**step), (second[key] / (1 - 0.9**step)).sqrt()
            rate = rates[key.partition(".")[0]]
            wanted[key] = wanted[key] * (1 - rate * 0.5) - rate * mean / (spread + 0.1)
            # float64: rounding is a hundred million times below what a wrong number would show
            torch.testing.assert_close(p.detach(), wanted[key], rtol=1e-9, atol=1e-12, msg=f"{key} at step {step}")


def test_class_pictures_are_drawn_once_for_many_concepts(model, tmp_path, monkeypatch):
    shared = tmp_path / "class"
    run(model, QUICK, tmp_path / "one", class_folder=shared)
    assert len(list(shared.glob("*/*.png"))) == QUICK.class_pictures
    monkeypatch.setattr("train.prior.sample_pictures", lambda *_: pytest.fail("drawn again"))
    run(model, replace(QUICK, token="zwx"), tmp_path / "two", class_folder=shared)
    assert not (tmp_path / "two" / "class").exists()


def test_the_concept_file_holds_what_was_learnt(model, tmp_path):
    concept, _ = run(model, replace(QUICK, concept_dtype="float16", min_snr=5.0, text_learning_rate=1e-4), tmp_path)
    loaded = load_concept(tmp_path / CONCEPT_FILE)
    assert (loaded.token, loaded.class_word, loaded.base_name) == ("sks", "cat", "tiny")
    assert loaded.settings == concept.settings and loaded.settings["size"] == 64
    assert all(torch.equal(loaded.tensors[name], tensor.half()) for name, tensor in concept.tensors.items())
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(model.device)
    with torch.no_grad():
        outputs = [
            one.unet(latents, 500, one.encode_text(loaded.instance_prompt))
            for one in (apply_concept(model, concept), apply_concept(model, loaded), model)
        ]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0.02)  # weights rounded to half precision
    assert (outputs[0] - outputs[2]).abs().max() > 0.1


def test_each_network_has_its_own_learning_rate(model):
    rates = replace(QUICK, learning_rate=1e-3, text_learning_rate=1e-9)
    concept, _ = run(model, rates)
    moved = {part: [] for part in ("unet", "text")}
    for name, tensor in concept.tensors.items():
        part, _, rest = name.partition(".")
        moved[part].append((tensor - networks_of(model)[part].state_dict()[rest].cpu()).abs().max().item())
    assert max(moved["unet"]) > 1e-3 and max(moved["text"]) < 1e-6


def test_bfloat16_learns_in_float32_weights(model):
    (exact, first), (rounded, second) = (run(model, replace(QUICK, bfloat16=b)) for b in (False, True))
    assert {t.dtype for t in rounded.tensors.values()} == {torch.float32}
    assert not same(exact, rounded)
    assert first[0] == pytest.approx(second[0], rel=0.05)  # bfloat16 has 8 bits


def test_bfloat16_is_what_class_pictures_and_samples_are_drawn_in_too(model, tmp_path):
    """Every call of the U-Net and the text encoder; never one of the autoencoder."""
    seen: dict[str, set[torch.dtype]] = {"unet": set(), "text": set(), "vae": set()}
    layers = {
        "unet": model.unet.conv_out,
        "text": model.text_encoder.layers[0].mlp.linear1,
        "vae": model.vae.decoder.conv_out,
    }
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, __, output, name=name: seen[name].add(output.dtype))
    run(model, replace(QUICK, bfloat16=True, steps=2, sample_every=1, class_guidance=2.0), tmp_path)
    assert seen == {"unet": {torch.bfloat16}, "text": {torch.bfloat16}, "vae": {torch.float32}}


def test_class_pictures_are_drawn_as_the_configuration_says(model, monkeypatch):
    asked = []

    def spy(model, prompt, settings, indices=(0,)):
        asked.append((prompt, settings, list(indices)))
        return [Image.new("RGB", (64, 64))] * len(indices)

    monkeypatch.setattr("train.prior.sample_pictures", spy)
    config = replace(QUICK, steps=1, class_pictures=3, class_steps=7, class_guidance=4.5, class_batch=2, seed=11)
    run(model, config)
    settings = SampleSettings(size=64, steps=7, guidance_scale=4.5, seed=0, bfloat16=False)  # for every concept alike
    assert asked == [("a photo of a cat", settings, [0, 1]), ("a photo of a cat", settings, [2])]


def test_class_rows_have_noise_of_their_own(model, monkeypatch):
    """As many class pictures as references, so that one seed would give both streams the same order and noise."""
    streams = []

    def spy(learner):
        streams.append((learner.instances, learner.classes))
        learner.done += 1
        return 0.0

    monkeypatch.setattr(Learner, "step", spy)
    run(model, replace(QUICK, steps=1, class_pictures=len(pictures())))
    instance, of_class = (stream.next_rows(4) for stream in streams[0])
    assert not any(torch.equal(a, b) for a, b in zip(instance.eps, of_class.eps, strict=True))
    assert not torch.equal(instance.t, of_class.t)


def test_what_cannot_be_learnt_from_is_refused_with_a_sentence(model, tmp_path):
    with pytest.raises(ValueError, match="empty folder"):
        learn(model, tmp_path, QUICK)
    (tmp_path / "notes.txt").write_text("a cat")
    with pytest.raises(ValueError, match=r"notes\.txt is not a picture"):
        learn(model, tmp_path, QUICK)
    with pytest.raises(ValueError, match="multiple of 64"):
        run(model, replace(QUICK, size=100))
    with pytest.raises(ValueError, match="load it in float32"):
        run(build(dtype=torch.float16), QUICK)


def test_a_loss_that_explodes_stops_learning(model):
    with torch.no_grad():
        model.unet.conv_out.weight.mul_(1e30)
    with pytest.raises(ValueError, match="lower the learning rate"):
        run(model, replace(QUICK, clip=0.0))


def test_the_checkpoint_goes_when_learning_is_done_unless_it_is_to_stay(tmp_path):
    config = replace(QUICK, steps=2, checkpoint_every=1, prior_weight=0.0)
    run(build(), config, tmp_path / "gone")
    run(build(), config, tmp_path / "kept", keep_checkpoint=True)
    assert [(tmp_path / name / CHECKPOINT_FILE).exists() for name in ("gone", "kept")] == [False, True]
    assert all((tmp_path / name / CONCEPT_FILE).is_file() for name in ("gone", "kept"))


@pytest.mark.parametrize(("name", "complaint"), [(CONCEPT_FILE, "has a concept already"), (CHECKPOINT_FILE, "resume")])
def test_what_an_earlier_run_left_is_kept_unless_told_otherwise(model, tmp_path, name, complaint):
    (tmp_path / name).write_text("an earlier one")
    with pytest.raises(ValueError, match=complaint):
        run(model, QUICK, tmp_path)
    assert (tmp_path / name).read_text() == "an earlier one" and len(list(tmp_path.iterdir())) == 1
    run(model, replace(QUICK, prior_weight=0.0, steps=1), tmp_path, overwrite=True)
    assert load_concept(tmp_path / CONCEPT_FILE).token == "sks" and not (tmp_path / CHECKPOINT_FILE).exists()


def test_the_next_run_clears_what_a_killed_one_left(model, tmp_path):
    """Beside the concept, the samples and the class pictures, those drawn already included."""
    config = replace(QUICK, steps=1, sample_every=1)
    run(model, config, tmp_path)
    homes = [tmp_path, tmp_path / "samples", *(tmp_path / "class").iterdir()]
    for home in homes:
        left = home / f".left.1{HIDDEN}"
        left.mkdir()
        (left / "partial.safetensors").write_text("half")
        os.utime(left, (0, 0))
    run(model, replace(config, sample_every=0), tmp_path, overwrite=True)
    assert len(homes) == 3 and not list(tmp_path.rglob(".*"))


def test_nothing_is_left_behind_by_a_refusal(model, tmp_path, monkeypatch):
    out, file = tmp_path / "out", tmp_path / "file"
    file.touch()
    refusals = [
        (replace(QUICK, size=100), {}, "multiple of 64"),
        (QUICK, {"resume": True}, "nothing to resume"),
        (QUICK, {"class_folder": file}, "is a file"),
    ]
    for config, more, complaint in refusals:
        with pytest.raises(ValueError, match=complaint):
            run(model, config, out, **more)
    with pytest.raises(ValueError, match="is a file"):
        run(model, QUICK, file / "out")
    with pytest.raises(ValueError, match="not a picture"):
        learn(model, [file], QUICK, out, progress=False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match="make room"):
        run(model, QUICK, out)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "spoil", "complaint"),
    [
        ("unet.conv_in.weight", None, "conv_in.weight' is missing"),
        ("unet.conv_in.weight", lambda t: t[:1].clone(), "conv_in.weight' is"),
        ("adamw.unet.conv_in.weight.exp_avg", lambda t: t.flatten(), "exp_avg' is"),
        ("adamw.unet.conv_in.weight.step", lambda t: t + 1, "has made other steps"),
        ("instances.queue", lambda t: torch.tensor([7]), "2 pictures and the next are"),
        ("classes.queue", lambda t: torch.tensor([1, 1]), "2 pictures and the next are"),
        ("classes.generator", torch.zeros_like, "random numbers"),
    ],
)
def test_a_crafted_checkpoint_is_refused_before_anything_is_drawn(interrupted, tmp_path, name, spoil, complaint):
    state, about = contents(interrupted / CHECKPOINT_FILE)
    changed = {key: t for key, t in state.items() if key != name} | ({name: spoil(state[name])} if spoil else {})
    put(tmp_path / CHECKPOINT_FILE, changed, json.dumps(about))
    with pytest.raises(ValueError, match=complaint) as caught:
        run(build(), QUICK, tmp_path, resume=True)
    assert "start again without resume" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder with the checkpoint of a run of two steps out of four."""
    out = tmp_path_factory.mktemp("run")
    run(build(), replace(QUICK, steps=2, checkpoint_every=2), out, keep_checkpoint=True)
    return out


def test_another_run_is_not_resumed(model, tmp_path):
    with pytest.raises(ValueError, match="nothing to resume"):
        run(model, QUICK, tmp_path, resume=True)
    with pytest.raises(ValueError, match="nothing to resume"):
        run(model, QUICK, resume=True)
    config = replace(QUICK, checkpoint_every=2)
    run(model, config, tmp_path, keep_checkpoint=True)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001 and is 0\.002"):
        run(model, replace(config, learning_rate=2e-3), tmp_path, resume=True)
    with pytest.raises(ValueError, match="more than the 3 asked for"):
        run(model, replace(config, steps=3), tmp_path, resume=True)
    with pytest.raises(ValueError, match="other references"):
        learn(model, pictures(1), config, tmp_path, progress=False, resume=True)
    with torch.no_grad():
        model.vae.quant_conv.bias[0] += 1
    with pytest.raises(ValueError, match="another model"):
        run(model, config, tmp_path, resume=True)
