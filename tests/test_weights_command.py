"""`photoswap weights`: what each action prints and writes, and one sentence for every mistake."""

import hashlib
import threading
from dataclasses import replace

import pytest
import torch
from command_line import refused
from mirror import FILE, REPOSITORY, REVISION, Mirror
from safetensors.torch import load_file, save_file
from tiny_model import tiny_config, write_tiny_model

from models.config import MODELS
from photoswap.__main__ import main
from train.concepts import Concept, apply_concept, replaced, save_concept
from weights import fingerprint
from weights.fetch import MIRROR, OFFLINE
from weights.load import load, networks_of
from weights.published import PUBLISHED, VARIABLE, Published


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture
def mirror(tiny_file, tmp_path, monkeypatch):
    """A server with the tiny model, which passes for sd21, and an empty cache folder."""
    content = tiny_file.read_bytes()
    entry = Published(REPOSITORY, REVISION, FILE, len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(PUBLISHED, "sd21", entry)
    monkeypatch.setitem(MODELS, "sd21", replace(tiny_config(), name="sd21"))
    for variable in (MIRROR, *OFFLINE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    with Mirror(content) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def told(capsys, *arguments: object) -> str:
    """Run an action that must succeed without a word on the error stream; returns what it prints."""
    assert main(["weights", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_from_fetch_to_a_picture(mirror, tmp_path, capsys):
    mirror.cut = len(mirror.content) // 3
    assert "not here" in told(capsys, "list").splitlines()[1]
    assert "gets it" in refused(capsys, "generate", "a cat", "--model", "sd21", "--out", tmp_path / "cat.png")
    path = tmp_path / "cache" / FILE
    assert told(capsys, "fetch", "sd21", "--mirror", mirror.url, "--quiet") == f"{path}\n"
    assert told(capsys, "list").splitlines()[1].split()[-2:] == ["here", str(path)]
    assert "sd21 as published" in told(capsys, "verify", "sd21", "--quiet")
    flags = ["--model", "sd21", "--steps", "1", "--quiet", "--out", str(tmp_path / "cat.png")]
    assert main(["generate", "a cat", *flags]) == 0
    assert (tmp_path / "cat.png").exists()


def test_a_folder_that_cannot_be_asked_is_one_sentence_and_no_list(capsys):
    assert "too long" in refused(capsys, "weights", "list", "--cache", "x" * 300)


def test_list_names_everything_that_was_published(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / f"{PUBLISHED['sd15'].file}.part").touch()
    lines = {line.split()[0]: line for line in told(capsys, "list").splitlines()}
    assert lines.keys() == {"miniature", *PUBLISHED}
    assert "5.215 GB  predicts eps  512 px  not here" in lines["sd21-base"]
    assert "predicts v    768 px" in lines["sd21"] and "begun" in lines["sd15"]
    assert str(tmp_path / "other") in told(capsys, "list", "--cache", tmp_path / "other")


def test_fetching_elsewhere_says_how_it_is_found(mirror, tmp_path, capsys):
    out = told(capsys, "fetch", "sd21", "--mirror", mirror.url, "--cache", tmp_path / "there", "--quiet")
    assert out.splitlines()[1] == f"for the other commands to find it there: export {VARIABLE}={tmp_path / 'there'}"


def test_fetch_shows_a_bar_and_says_what_goes_wrong(mirror, tmp_path, capsys):
    assert main(["weights", "fetch", "sd21", "--mirror", mirror.url]) == 0
    assert FILE in capsys.readouterr().err
    (tmp_path / "cache" / FILE).unlink()
    mirror.statuses = [404]
    assert "answers 404" in refused(capsys, "weights", "fetch", "sd21", "--mirror", mirror.url, "--quiet")
    mirror.content = b"!" + mirror.content[1:]
    assert "it was deleted" in refused(capsys, "weights", "fetch", "sd21", "--mirror", mirror.url, "--quiet")
    assert "no network is wanted" in refused(capsys, "weights", "fetch", "sd21", "--offline")
    other = ["--cache", tmp_path / "new" / "cache", "--quiet"]
    mirror.statuses = [404]
    assert "answers 404" in refused(capsys, "weights", "fetch", "sd21", "--mirror", mirror.url, *other)
    assert not (tmp_path / "new").exists()
    assert "want one of sd21, sd21-base, sd15" in refused(capsys, "weights", "fetch", "sdxl")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupted_fetch_says_that_it_goes_on(mirror, capsys, monkeypatch):
    def pressed(part, chunk):
        raise KeyboardInterrupt

    monkeypatch.setattr("weights.fetch.PartialFile.append", pressed)
    assert main(["weights", "fetch", "sd21", "--mirror", mirror.url, "--quiet"]) == 130
    assert "the same command goes on from where it was" in capsys.readouterr().err


def test_verify_describes_and_refuses(tiny_file, tmp_path, capsys):
    out = told(capsys, "verify", tiny_file, "--quiet")
    assert f"{len(load_file(tiny_file))} tensors in float32" in out and "not one of the published files" in out
    assert "a single file that holds tiny, complete; it predicts v according to the note in it" in out
    (tmp_path / "cut.safetensors").write_bytes(tiny_file.read_bytes()[:-1])
    assert "only part of one" in refused(capsys, "weights", "verify", tmp_path / "cut.safetensors")
    assert "no model" in refused(capsys, "weights", "verify", tmp_path / "nothing.safetensors")


@pytest.mark.filterwarnings("always::UserWarning")
def test_verify_prints_what_the_probe_decides_and_where_it_disagrees(tiny_file, tmp_path, capsys, monkeypatch):
    assert main(["weights", "verify", str(tiny_file), "--prediction", "eps", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "it predicts eps according to the prediction asked for" in out
    assert "photoswap: " in err and "and v according to a probe" in err
    monkeypatch.setitem(MODELS, "tiny", tiny_config())
    twin = replace(tiny_config(), name="twin", noise=replace(tiny_config().noise, prediction="eps"))
    monkeypatch.setitem(MODELS, "twin", twin)
    save_file(load_file(tiny_file), tmp_path / "bare.safetensors")
    assert main(["weights", "verify", str(tmp_path / "bare.safetensors"), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "it predicts v according to a probe" in out and "a probe finds v" in err


@pytest.mark.filterwarnings("always::UserWarning")
def test_the_other_commands_take_the_flag_too(tiny_file, tmp_path, capsys):
    flags = ["--model", str(tiny_file), "--steps", "1", "--quiet"]
    for prediction in ("eps", "v"):
        out = tmp_path / f"{prediction}.png"
        assert main(["generate", "a cat", *flags, "--prediction", prediction, "--out", str(out)]) == 0
    assert "predicts eps according to the prediction asked for (eps), and v" in capsys.readouterr().err
    assert (tmp_path / "eps.png").read_bytes() != (tmp_path / "v.png").read_bytes()


def test_convert_there_and_back(tiny_file, tmp_path, capsys):
    folder, back = tmp_path / "folder", tmp_path / "back.safetensors"
    assert told(capsys, "convert", tiny_file, folder, "--layout", "folder") == f"{folder}\n"
    assert told(capsys, "convert", folder, back, "--layout", "ldm") == f"{back}\n"
    assert back.read_bytes() == tiny_file.read_bytes()
    told(capsys, "convert", folder, tmp_path / "half.safetensors", "--layout", "ldm", "--dtype", "float16")
    assert {t.dtype for t in load_file(tmp_path / "half.safetensors").values()} == {torch.float16}


def test_convert_merges_a_concept(tiny_file, tmp_path, capsys):
    base = load(tiny_file)
    tensors = {f"unet.{k}": t + 0.01 for k, t in networks_of(base)["unet"].state_dict().items()}
    concept = Concept(
        fingerprint(base), "tiny", "sks", "cat", "a photo of a sks cat", "a photo of a cat", {}, replaced(tensors)
    )
    save_concept(concept, tmp_path / "concept.safetensors")
    flags = ["--layout", "folder", "--concept", tmp_path / "concept.safetensors"]
    told(capsys, "convert", tiny_file, tmp_path / "cat", *flags)
    merged, wanted = load(tmp_path / "cat"), apply_concept(base, concept)
    for part, network in networks_of(merged).items():
        state = networks_of(wanted)[part].state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    again = refused(capsys, "weights", "convert", tmp_path / "cat", tmp_path / "twice", *flags)
    assert "was learnt on tiny" in again
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: ACTION (see photoswap weights --help)"),
        (["fetch"], "required: NAME (see photoswap weights fetch --help)"),
        (["convert", "a", "b"], "required: --layout"),
        (["convert", "a", "b", "--layout", "onnx"], "choose from"),
        (["verify", "x", "--prediction", "epsilon"], "choose from"),
    ],
)
def test_mistakes_in_typing(capsys, arguments, sentence):
    assert sentence in refused(capsys, "weights", *arguments).replace("'", "")


@pytest.mark.parametrize("action", ["list", "fetch", "verify", "convert"])
def test_every_action_explains_itself(capsys, action):
    with pytest.raises(SystemExit):
        main(["weights", action, "--help"])
    assert f"photoswap weights {action}" in capsys.readouterr().out


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        main(["weights", "--help"])
    assert "  photoswap weights fetch sd21-base" in capsys.readouterr().out


def test_a_concept_with_a_new_word_is_not_merged(tmp_path, capsys):
    base = load(write_tiny_model(tmp_path / "base.safetensors"))
    rows = {"<new1>": torch.ones(1, base.config.text.width)}
    prompts = ("a photo of a <new1> cat", "a photo of a cat")
    save_concept(Concept(fingerprint(base), "tiny", "<new1>", "cat", *prompts, {}, {}, rows), tmp_path / "concept")
    told = refused(
        capsys, "weights", "convert", tmp_path / "base.safetensors", tmp_path / "out", "--layout", "folder",
        "--concept", tmp_path / "concept",
    )  # fmt: skip
    assert "<new1> is no word of the vocabulary" in told and not (tmp_path / "out").exists()
