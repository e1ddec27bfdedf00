"""weights.records: what is written is read again, and whatever was done to a file ends in one sentence."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from spoiled import contents, put, spoiled_bytes, spoiled_tensors, spoiled_texts

from models.config import MODELS, SD15, ModelConfig
from weights.load import CONFIG_KEY
from weights.parsing import parse, parse_config
from weights.records import RECORD_KEY, FileKind, TensorRule, quoted, read, shown, write

LONGEST = 700  # characters of a sentence: names of files, which may take 200, included
SEED = 20


@dataclass(frozen=True)
class Part:
    side: int = 1

    def __post_init__(self) -> None:
        if self.side == 13:
            raise ValueError("side is 13; want another")


@dataclass(frozen=True)
class About:
    prompt: str
    method: Literal["one", "other"]
    scale: float | tuple[float, ...]
    seed: int | None
    pair: tuple[float, float]
    flag: bool
    part: Part = Part()
    free: Mapping[str, Any] = field(default_factory=dict)


ABOUT = About("a dog", "one", (7.5, 3.0), 3, (0.5, 1.0), True, Part(2), {"a": [1, "b", None], "c": {"d": 0.5}})
KIND = FileKind(
    "sandwich",
    About,
    {
        "bread": TensorRule(("n", 4, "h"), (torch.float32,), (-100, 100)),
        "cheese": TensorRule(("n", "h"), (torch.uint8,)),
        "unet.*": TensorRule(wanted=False),
    },
    {"scale": (0, 100), "seed": (-5, 5), "side": (1, 100)},
    {"n": (1, 50)},
)


def tensors():
    return {
        "bread": torch.linspace(-2, 2, 24).reshape(2, 4, 3),
        "cheese": torch.arange(6, dtype=torch.uint8).reshape(2, 3),
        "unet.conv.weight": torch.ones(3, dtype=torch.bfloat16),
    }


def sentence(act) -> str:
    """What an act refuses with: one sentence, on one line, of bounded length."""
    with pytest.raises(ValueError) as refused:
        act()
    said = str(refused.value)
    assert 10 < len(said) <= LONGEST and "\n" not in said and said.isprintable(), said
    return said


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "a.safetensors", KIND, tensors(), ABOUT)
    return tmp_path / "a.safetensors"


def test_what_is_written_is_read_again_and_gives_the_same_bytes(path, tmp_path):
    found, about = read(path, KIND)
    assert about == ABOUT
    assert found.keys() == tensors().keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors().items()
    )
    write(tmp_path / "b", KIND, found, about)
    assert (tmp_path / "b").read_bytes() == path.read_bytes()


def test_tensors_may_share_memory(tmp_path):
    """As tied weights do, and rows of one table."""
    both = torch.linspace(-1, 1, 24).reshape(2, 4, 3)
    held = {**tensors(), "bread": both, "unet.a": both, "unet.b": both[1]}
    write(tmp_path / "a", KIND, held, ABOUT)
    found = read(tmp_path / "a", KIND)[0]
    assert torch.equal(found["unet.a"], both) and torch.equal(found["unet.b"], both[1])


def test_optional_tensors_and_defaults_may_be_missing(tmp_path):
    held, data = tensors(), {"kind": "sandwich", "prompt": "", "method": "other", "scale": 1, "seed": None}
    held.pop("unet.conv.weight")
    put(tmp_path / "a", held, json.dumps({**data, "pair": [0, 1], "flag": False}))
    about = read(tmp_path / "a", KIND)[1]
    assert about == About("", "other", 1.0, None, (0.0, 1.0), False) and type(about.scale) is float


# Values that another of its types or ranges allows; everything else that is tried must be refused.
ALLOWED = {
    "prompt": {"text", "empty", "lines"},
    "scale": {"zero", "fraction", "list"},
    "seed": {"null", "zero", "negative"},
    "flag": {"true"},
    "method": set(),
    "free": {"object"},
    "part": {"object"},
    "version": set(),
}


def test_no_spoilt_text_is_read(path, tmp_path):
    held, data = contents(path)
    tried = 0
    for what, text in spoiled_texts(data):
        name, _, value = what.partition(" ")
        put(tmp_path / "spoilt", held, text)
        if value in ALLOWED.get(name, ()) or what in ("no part", "no free", "no version"):
            read(tmp_path / "spoilt", KIND)
        else:
            assert "spoilt" in sentence(lambda: read(tmp_path / "spoilt", KIND)), what
            tried += 1
    assert tried > 150


def test_no_spoilt_tensor_is_read(path, tmp_path):
    held, data = contents(path)
    tried = 0
    for what, changed in spoiled_tensors(held):
        put(tmp_path / "spoilt", changed, json.dumps(data))
        if what.startswith("unet.") and not any(word in what for word in ("nan", "inf", "torch.", "nine")):
            read(tmp_path / "spoilt", KIND)  # any shape is allowed there
        elif what not in ("no unet.conv.weight",):
            assert "spoilt" in sentence(lambda: read(tmp_path / "spoilt", KIND)), what
            tried += 1
    assert tried > 50


def test_no_damaged_bytes_end_in_anything_but_a_sentence(path, tmp_path):
    generator = torch.Generator().manual_seed(SEED)
    print(f"seed {SEED}")
    refused = 0
    for what, spoilt in spoiled_bytes(path.read_bytes(), generator):
        (tmp_path / "spoilt").write_bytes(spoilt)
        try:
            found, about = read(tmp_path / "spoilt", KIND)
        except ValueError as error:
            refused += 1
            assert len(str(error)) <= LONGEST and str(error).isprintable(), what
        else:  # a letter of the prompt, a number of the tensors: still such a file
            assert isinstance(about, About) and all(t.isfinite().all() for t in found.values()), what
    assert refused > 300


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda p: p.unlink(), "no file .*a sandwich was wanted"),
        (lambda p: (p.unlink(), p.mkdir()), "no file"),
        (lambda p: p.write_bytes(b""), "not a safetensors file"),
        (lambda p: p.write_text("a photo"), "not a safetensors file"),
        (lambda p: save_file({"x": torch.zeros(1)}, p), "another program; a sandwich was wanted"),
        (lambda p: put(p, tensors(), '{"kind": "cake"}'), "another kind \\('cake'\\); a sandwich was wanted"),
        (lambda p: save_file(tensors(), p, {"photoswap inversion 1": "{}"}), "another kind \\('inversion'\\)"),
        (
            lambda p: put(p, tensors(), '{"kind": "sandwich", "version": 2}'),
            "version 2, and this program reads up to 1",
        ),
    ],
)
def test_a_file_of_another_kind_is_named(path, spoil, what):
    spoil(path)
    with pytest.raises(ValueError, match=what):
        read(path, KIND)


def test_the_text_is_checked_before_a_tensor_is_read(path, monkeypatch):
    put(path, tensors(), '{"kind": "sandwich"}')
    monkeypatch.setattr("weights.records.check_tensors", lambda *_: pytest.fail("the tensors were looked at"))
    with pytest.raises(ValueError, match="lacks 'prompt', 'method', 'scale', 'seed', 'pair' and 1 more"):
        read(path, KIND)


def test_an_older_version_is_brought_up_to_date_or_refused(path):
    def upgrade(version, data):
        words = data.pop("words")
        return {**data, "prompt": f"{words} of version {version}"}

    held, data = contents(path)
    data["words"] = data.pop("prompt")
    put(path, held, json.dumps(data))
    newer = FileKind("sandwich", About, KIND.tensors, KIND.limits, version=2, upgrade=upgrade)
    assert read(path, newer)[1].prompt == "a dog of version 1"
    with pytest.raises(ValueError, match="version 1, no longer read: make it again"):
        read(path, FileKind("sandwich", About, KIND.tensors, version=2))
    put(path, held, json.dumps({"kind": "sandwich"}))
    assert "damaged" in sentence(lambda: read(path, newer))


@pytest.mark.parametrize("name", ["bread", "prompt"])
def test_nothing_is_written_that_would_be_refused(path, name):
    before, held, about = path.read_bytes(), tensors(), ABOUT
    if name == "bread":
        held["bread"][0, 0, 0] = float("nan")
    else:
        about = About("x" * 3000, *[getattr(ABOUT, n) for n in ("method", "scale", "seed", "pair", "flag")])
    assert name in sentence(lambda: write(path, KIND, held, about))
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_leaves_what_was_there(path, monkeypatch):
    def fail(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    before = path.read_bytes()
    monkeypatch.setattr("weights.records.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, KIND, tensors(), ABOUT)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def config_text(config):
    return json.dumps(asdict(config))


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_every_known_configuration_is_read_from_its_text(config, tmp_path):
    assert parse_config(config_text(config), "a file") == config


def test_no_spoilt_configuration_is_read(tmp_path):
    """Each number of each part given every strange value; what is allowed is a configuration that may be built."""
    whole = json.loads(config_text(SD15))
    refused = 0
    for part in [name for name in whole if isinstance(whole[name], dict)]:
        for _, text in spoiled_texts(whole[part]):
            try:
                inner = json.loads(text)
            except (ValueError, RecursionError):
                continue
            try:
                config = parse_config(json.dumps({**whole, part: inner}), tmp_path / "model.json")
            except ValueError as error:
                refused += 1
                assert len(str(error)) <= LONGEST and "model.json" in str(error)
            else:
                assert isinstance(config, ModelConfig) and max(config.unet.widths) <= 16384 * 64
    for _, text in spoiled_texts(whole):
        try:
            parse_config(text, tmp_path / "model.json")
        except ValueError as error:
            refused += 1
            assert len(str(error)) <= LONGEST
    assert refused > 500


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("unet", "channels", 10**9),
        ("unet", "channels", -320),
        ("unet", "groups", 0),
        ("unet", "heads", 0),
        ("unet", "depth", 10**9),
        ("unet", "res_blocks", 10**6),
        ("vae", "multipliers", [1] * 60 + [0]),
        ("vae", "scale_factor", float("nan")),
        ("text", "heads", 0),
        ("text", "layers", 10**6),
        ("text", "vocabulary", 10**15),
        ("noise", "beta_end", float("nan")),
        ("noise", "train_steps", 10**12),
    ],
)
def test_configurations_that_would_be_built_for_ever_are_refused(tmp_path, part, name, value):
    data = json.loads(config_text(SD15))
    data[part][name] = value
    assert name in sentence(lambda: parse_config(json.dumps(data), "a file"))


def test_what_the_dataclass_refuses_is_told():
    with pytest.raises(ValueError, match="side is 13; want another"):
        parse(Part, {"side": 13})
    assert CONFIG_KEY != RECORD_KEY


@pytest.mark.parametrize(
    "value", ["x" * 20_000, "two\nlines", b"\x00", 10**5000, ["x"] * 9999, float("nan"), "\ud800"], ids=range(7)
)
def test_what_is_quoted_back_is_short_and_on_one_line(value):
    for said in (quoted(value), shown(value) if not isinstance(value, int) else ""):
        assert len(said) <= 210 and "\n" not in said and "\x00" not in said
        said.encode()
