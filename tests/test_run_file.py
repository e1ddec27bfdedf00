"""train.run_file: what a run goes on from is checked, in its file and against the run."""

import json
from dataclasses import replace

import pytest
import torch
from spoiled import contents, put, spoiled_bytes, spoiled_tensors, spoiled_texts
from test_dreambooth import QUICK, build, learner_of, pictures
from test_records import LONGEST, sentence

from train.data import CentreCrops, Stream
from train.learn import CHECKPOINT_FILE, learn
from train.learner import check_state
from train.methods import method_of
from train.run_file import RunRecord, copy_into, read_run, write_run
from weights import fingerprint
from weights.load import networks_of

SEED = 22
RECORD = RunRecord("2-0123456789abcdef", "ab" * 32, {"steps": 3, "betas": [0.9, 0.999], "token": "sks"}, 7)


def state():
    """Of a run with one parameter in each network."""
    generator = torch.Generator().manual_seed(1).get_state()
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3)}
    return {
        **{f"{network}.a.weight": torch.full((2, 3), -0.5) for network in ("unet", "text")},
        **{f"adamw.unet.a.weight.{name}": moment for name, moment in moments.items()},
        **{f"{kind}.generator": generator for kind in ("instances", "classes")},
        **{f"{kind}.queue": torch.tensor([1, 0]) for kind in ("instances", "classes")},
    }


def test_a_checkpoint_is_read_again(tmp_path):
    write_run(tmp_path / "a", state(), RECORD)
    found, record = read_run(tmp_path / "a")
    assert record == RECORD and found.keys() == state().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state().items())
    none_left = {**state(), "instances.queue": torch.zeros(0, dtype=torch.long)}
    write_run(tmp_path / "b", none_left, RECORD)
    assert len(read_run(tmp_path / "b")[0]["instances.queue"]) == 0


ALLOWED = {"base": {"text", "lines"}, "pictures": {"text", "lines"}, "done": {"zero"}, "settings": {"object"}}
SHAPES = ("flat", "a scalar", "one axis more", "empty", "longer in 0", "longer in 1", "1e+30")
WANTED = ("instances.generator", "instances.queue")


def test_no_spoilt_checkpoint_is_read(tmp_path):
    write_run(tmp_path / "whole", state(), RECORD)
    held, data = contents(tmp_path / "whole")
    tried = 0
    for what, text in spoiled_texts(data):
        name, _, value = what.partition(" ")
        put(tmp_path / "spoilt", held, text)
        if value in ALLOWED.get(name, ()) or what == "no version":
            read_run(tmp_path / "spoilt")
        else:
            assert "spoilt" in sentence(lambda: read_run(tmp_path / "spoilt")), what
            tried += 1
    for what, changed in spoiled_tensors(held):
        name, _, value = what.partition(" ")
        put(tmp_path / "spoilt", changed, json.dumps(data))
        free = not name.endswith((".step", ".generator", ".queue"))  # shapes are the run's to check
        same = value == ("a scalar" if name.endswith(".step") else "flat")
        queue = "queue" in name and value.startswith(("longer", "empty"))
        if (name == "no" and value not in WANTED) or same or queue or (free and value in SHAPES):
            read_run(tmp_path / "spoilt")
        elif not (value == "longer in 0" and name.endswith(".generator")):  # of both alike it could be
            assert "spoilt" in sentence(lambda: read_run(tmp_path / "spoilt")), what
            tried += 1
    assert tried > 150


def test_no_damaged_bytes_end_in_anything_but_a_sentence(tmp_path):
    write_run(tmp_path / "whole", state(), RECORD)
    print(f"seed {SEED}")
    for what, spoilt in spoiled_bytes((tmp_path / "whole").read_bytes(), torch.Generator().manual_seed(SEED), 100):
        (tmp_path / "spoilt").write_bytes(spoilt)
        try:
            read_run(tmp_path / "spoilt")
        except ValueError as error:
            assert len(str(error)) <= LONGEST and str(error).isprintable(), what


@pytest.fixture(scope="module")
def learner():
    model = build()
    return learner_of(model, QUICK, Stream(CentreCrops(model, pictures(), 64), 1000, 0))


@pytest.fixture(scope="module")
def begun(learner):
    learner.step()
    return {name: tensor.detach().clone() for name, tensor in learner.state().items()}


MOMENT = "adamw.unet.conv_in.weight.exp_avg"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({MOMENT: torch.zeros(3)}, r"conv_in\.weight\.exp_avg' is \(3,\)"),
        ({MOMENT: None}, "exp_avg' is missing"),
        ({"adamw.unet.strange.exp_avg": torch.zeros(3)}, "holds 'adamw.unet.strange.exp_avg'"),
        ({"classes.queue": torch.zeros(1)}, "holds 'classes.queue', which this run does not have"),
        ({MOMENT.replace("exp_avg", "step"): torch.tensor(7.0)}, "made other steps than the 1"),
        ({"instances.queue": torch.tensor([1, 1])}, r"2 pictures and the next are \[1, 1\]"),
        ({"instances.queue": torch.tensor([0, 7])}, r"2 pictures and the next are \[0, 7\]"),
        ({"instances.queue": None}, "instances.queue' is missing"),
        ({"instances.generator": torch.zeros(7, dtype=torch.uint8)}, "the state of the random numbers is none"),
        ({"unet.conv_in.weight": torch.zeros(3)}, r"conv_in\.weight. is \(3,\)"),
    ],
)
def test_the_state_of_another_run_is_refused(learner, begun, changes, what):
    shapes = method_of(QUICK).shapes(learner.model, QUICK)
    spoilt = {name: tensor for name, tensor in {**begun, **changes}.items() if tensor is not None}
    with pytest.raises(ValueError, match=what):
        check_state(shapes, spoilt, 1, {"instances": 2})


def test_a_damaged_checkpoint_is_named_when_a_run_is_resumed(tmp_path):
    config = replace(QUICK, steps=2, checkpoint_every=1)
    learn(build(), pictures(), config, tmp_path, progress=False, keep_checkpoint=True)
    held, data = contents(tmp_path / CHECKPOINT_FILE)
    put(tmp_path / CHECKPOINT_FILE, {**held, "instances.queue": torch.tensor([99])}, json.dumps(data))
    said = sentence(lambda: learn(build(), pictures(), config, tmp_path, progress=False, resume=True))
    assert CHECKPOINT_FILE in said and "the next are [99]" in said


@pytest.mark.parametrize(("random_crop", "resampling"), [(True, "bilinear"), (False, "lanczos")])
def test_a_checkpoint_of_the_first_version_is_read(tmp_path, random_crop, resampling):
    write_run(tmp_path / "whole", state(), RECORD)
    held, about = contents(tmp_path / "whole")
    about = {**about, "settings": {"random_crop": random_crop, "checkpointing": True}}
    del about["version"]
    put(tmp_path / "old", held, json.dumps(about))
    wanted = {"random_crop": random_crop, "resampling": resampling, "gradient_checkpointing": True}
    wanted |= {"method": "dreambooth", "scale_learning_rate": False, "moments": "float32", "rate_schedule": "constant"}
    assert read_run(tmp_path / "old")[1].settings == wanted


def test_a_checkpoint_of_custom_diffusion_that_does_not_say_what_learnt_is_of_keys_and_values(tmp_path):
    write_run(tmp_path / "now", state(), RECORD)
    held, about = contents(tmp_path / "now")
    put(tmp_path / "old", held, json.dumps({**about, "version": 4, "settings": {"method": "custom-diffusion"}}))
    assert read_run(tmp_path / "old")[1].settings["whole_attention"] is False


def test_missing_unknown_and_misshapen_tensors_are_named_and_nothing_is_copied():
    model = build()
    before = fingerprint(model)
    networks = {name: networks_of(model)[name] for name in ("unet", "text")}
    tensors = {f"{n}.{k}": t + 1 for n, network in networks.items() for k, t in network.state_dict().items()}
    tensors["unet.extra"] = tensors.pop("unet.conv_in.weight")
    tensors["text.final_norm.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"3 tensors .*text\.final_norm\.bias.*unet\.conv_in\.weight.*unet\.extra"):
        copy_into(networks, tensors)
    assert fingerprint(model) == before
