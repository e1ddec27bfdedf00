"""Who takes part in the benchmark: every combination that means something, once, at the settings it is said to have."""

import json

import pytest

from photoswap.benchmark.entries import BASELINES, Entry, label_of, make_entries, tuned_settings
from photoswap.inversions import INVERSIONS
from photoswap.methods import METHODS, InversionFree, Photoswap, official


def test_all_of_everything_is_there_once():
    found = make_entries(["all"], ["all"], ["dreambooth"], ["published"])
    assert len(found) == len(set(found)) and {entry.method for entry in found} == {*METHODS, "official"}
    for entry in found:
        kind = METHODS.get(entry.method, Photoswap)
        assert (entry.inversion == "none") == (not kind.inverts)
        assert (entry.concept == "none") == ("reference" in kind.wants)
    inverting = [name for name in (*METHODS, "official") if METHODS.get(name, Photoswap).inverts]
    assert len(found) == len(INVERSIONS) * len(inverting) + len(METHODS) + 1 - len(inverting)
    assert len({entry.key for entry in found}) == len(found)


def test_published_settings_are_the_methods_own_at_the_models_guidance():
    assert Entry("photoswap").make(3.0) == Photoswap(guidance_scale=3.0)
    assert Entry("official").make(3.0, 20) == official(20, guidance_scale=3.0)
    assert Entry("inversion-free").make(3.0) == InversionFree()  # published at 2.3, in 12 steps
    assert Entry("photoswap").make(3.0, 20) == Photoswap.scaled(20, guidance_scale=3.0)


def test_changes_scale_with_the_steps():
    entry = Entry("photoswap", changes=(("phi", 20), ("guidance_scale", 2.0)))
    assert entry.make(3.0) == Photoswap(phi=20, guidance_scale=2.0)
    assert entry.make(3.0, 10) == Photoswap.scaled(10, phi=4, guidance_scale=2.0)
    assert entry.key != Entry("photoswap").key != Entry("photoswap", changes=(("phi", 21),)).key


def test_tuned_settings_come_from_the_file(tmp_path):
    file = tmp_path / "tuned.json"
    with pytest.raises(ValueError, match="there are no tuned settings"):
        tuned_settings("photoswap", file)
    file.write_text(json.dumps({"methods": {"photoswap": {"settings": {"phi": 5}}}}))
    assert tuned_settings("photoswap", file) == (("phi", 5),)
    with pytest.raises(ValueError, match=r"plain has not been tuned; python -m photoswap\.benchmark\.tune"):
        tuned_settings("plain", file)


def test_labels_say_what_differs():
    one, two = Entry("photoswap"), Entry("photoswap", "ddim")
    three = Entry("sdedit", "none", settings="tuned")
    assert [label_of(entry, (one, three)) for entry in (one, three)] == ["photoswap, published", "sdedit, tuned"]
    assert label_of(two, (one, two)) == "photoswap, ddim" and label_of(one, (one,)) == "photoswap"
    assert len({label_of(Entry(name), (one,)) for name in BASELINES}) == 3


@pytest.mark.parametrize(
    ("names", "sentence"),
    [((["cake"], ["direct"]), "no method 'cake'"), ((["plain"], ["cake"]), "no inversion 'cake'")],
)
def test_unknown_names_are_refused(names, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_entries(*names, ["dreambooth"], ["published"])
