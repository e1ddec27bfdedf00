"""train.encoded: pictures and frozen prompts are encoded once, by a run that goes on too, and never for others."""

from dataclasses import replace

import pytest
import torch
from test_dreambooth import QUICK, build, pictures, run, same
from test_learning_methods import CASES

from train.encoded import Encoded
from train.learn import CLASS_ENCODED_FILE, ENCODED_FILE

FILE = "kept.safetensors"


def test_what_was_made_is_kept_to_the_bit_and_made_once(tmp_path):
    made = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    images, made_now = torch.ones(2, 3, 8, 8), []
    for again in range(2):
        encoded = Encoded("model", tmp_path / FILE)
        found = encoded.of("pictures", [images], made.shape, lambda: (made_now.append(1), made)[1])
        assert torch.equal(found, made) and len(made_now) == 1
        before = (tmp_path / FILE).stat().st_mtime_ns if again else None
        encoded.keep()
        assert before is None or (tmp_path / FILE).stat().st_mtime_ns == before  # nothing new to write


@pytest.mark.parametrize("change", ["pictures", "order", "kind", "shape", "model", "damaged", "not asked"])
def test_nothing_is_taken_for_another(tmp_path, change):
    images, made = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]), torch.zeros(2, 8, 1, 1)
    first = Encoded("model", tmp_path / FILE)
    first.of("pictures", [images], made.shape, lambda: made)
    first.keep()
    if change == "damaged":
        (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-4])
    encoded = Encoded("other" if change == "model" else "model", tmp_path / FILE, known=change != "not asked")
    asked = {"pictures": images + 1e-6, "order": images.flip(0)}.get(change, images)
    shape = (1, 16, 1, 1) if change == "shape" else made.shape
    fresh = torch.ones(shape)
    assert encoded.of("prompts" if change == "kind" else "pictures", [asked], shape, lambda: fresh).equal(fresh)
    encoded.keep()
    assert len(Encoded("other" if change == "model" else "model", tmp_path / FILE).held) == 1  # the old one goes


@pytest.mark.parametrize("name", ["dreambooth", "lora"])
def test_a_run_that_goes_on_encodes_nothing(tmp_path, monkeypatch, name):
    config = replace(CASES[name], steps=3, checkpoint_every=2, prior_weight=1.0)
    whole, losses = run(build(), config, tmp_path / "whole", class_folder=tmp_path / "class")
    assert not (tmp_path / "whole" / ENCODED_FILE).exists()  # it goes with the checkpoint
    assert len(list((tmp_path / "class").glob(f"*/{CLASS_ENCODED_FILE}"))) == 1
    out = tmp_path / "parts"
    run(build(), replace(config, steps=2), out, class_folder=tmp_path / "class", keep_checkpoint=True)
    assert (out / ENCODED_FILE).is_file()
    monkeypatch.setattr("train.data.encode_moments", lambda *_: pytest.fail("encoded again"))
    if name == "lora":
        monkeypatch.setattr("train.learner.Learner._encode_prompts", lambda _: pytest.fail("encoded again"))
    resumed, rest = run(build(), config, out, class_folder=tmp_path / "class", resume=True)
    assert rest == losses[2:] and same(whole, resumed) and not (out / ENCODED_FILE).exists()


def test_changed_pictures_are_refused_or_encoded_anew(tmp_path):
    config = replace(QUICK, steps=2, checkpoint_every=1, prior_weight=0.0)
    run(build(), config, tmp_path, keep_checkpoint=True)
    with pytest.raises(ValueError, match="other references"):
        run(build(), replace(config, steps=3), tmp_path, references=pictures(1), resume=True)
    wanted, _ = run(build(), config, references=pictures(1))
    found, _ = run(build(), config, tmp_path, references=pictures(1), overwrite=True)
    assert same(found, wanted)
