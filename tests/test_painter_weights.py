"""Checkpoints of what paints: told apart, pinned, verified, converted, and refused in one sentence."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from command_line import refused
from golden_paint import CONFIG, FILE, write_folder
from safetensors.torch import load_file, save_file
from test_names import shapes
from tiny_model import tiny_config, write_tiny_model

from models.config import MODELS, PAINT_BY_EXAMPLE, SD2_INPAINTING, SD15, SD15_INPAINTING, SD21_BASE
from models.paint_by_example import PaintByExample
from models.stable_diffusion import LatentDiffusion, StableDiffusion
from photoswap.__main__ import main
from weights import fingerprint, mismatch
from weights.folder import image_config, texts
from weights.load import load, load_as, save
from weights.parsing import parse_config
from weights.published import PUBLISHED, TRAINING_STATE, VARIABLE, locate
from weights.recognise import recognise
from weights.verify import verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The golden model as another library wrote it."""
    return write_folder(tmp_path_factory.mktemp("folder") / "golden-paint")


@pytest.fixture
def ours(tmp_path):
    """The golden model in a file of ours, which says what it is."""
    path = tmp_path / "ours.safetensors"
    save(load_as(PaintByExample, FILE, dtype="stored", config=CONFIG), path)
    return path


class OnlyShapes(dict):
    """Stands for an open file of which the shapes alone are known."""

    metadata: dict = {}  # noqa: RUF012
    path = "a-file.ckpt"


def looked_at(name):
    return OnlyShapes({key: torch.empty(shape, device="meta") for key, shape in shapes(name).items()})


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("pbe_ldm", PAINT_BY_EXAMPLE),
        ("sd15_inpaint_ldm", SD15_INPAINTING),
        ("sd2_inpaint_ldm", SD2_INPAINTING),
        ("sd15_ldm", SD15),
    ],
)
def test_a_published_single_file_is_told_by_its_shapes(name, config, tmp_path):
    """Paint by Example and SD 1.5's inpainting have one U-Net; what makes the context tells them apart."""
    told = recognise({None: looked_at(name)}, tmp_path / "a-file.ckpt", "a-file.ckpt")
    assert (told.config, told.by, told.sure) == (config, "its shapes", True)


def test_a_folder_without_small_files_is_told_by_its_shapes_and_its_encoder(tmp_path):
    unet = looked_at("pbe_diffusers_unet")
    by_picture = {"unet": unet, "vae": OnlyShapes(), "image": OnlyShapes()}
    by_text = {"unet": unet, "vae": OnlyShapes(), "text": OnlyShapes()}
    assert recognise(by_picture, tmp_path, "folder").config == PAINT_BY_EXAMPLE
    assert recognise(by_text, tmp_path, "folder").config == SD15_INPAINTING


@pytest.mark.parametrize("config", [PAINT_BY_EXAMPLE, SD15_INPAINTING, CONFIG])
def test_a_configuration_is_read_from_its_text(config):
    assert parse_config(json.dumps(asdict(config)), "a file") == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"heads": 5}, "does not split into 5 heads"),
        ({"patch": 15}, "does not split into patches of 15"),
        ({"context_channels": 64}, "the image encoder gives 64"),
        ({"layers": 10**6}, "want a number between 1 and 256"),
        ({"gate": 1}, "does not know 'gate'"),
    ],
)
def test_a_spoilt_configuration_is_refused(change, sentence):
    numbers = asdict(PAINT_BY_EXAMPLE)
    numbers["image"] |= change
    with pytest.raises(ValueError, match="a file holds no usable model configuration") as error:
        parse_config(json.dumps(numbers), "a file")
    assert sentence in str(error.value)


def test_four_channels_do_not_paint():
    with pytest.raises(ValueError, match="takes 4 channels; one that paints takes nine"):
        replace(PAINT_BY_EXAMPLE, unet=SD15.unet)


def test_a_file_of_ours_says_what_it_is(ours):
    found = load_as(LatentDiffusion, ours)
    assert isinstance(found, PaintByExample) and found.config == CONFIG


def test_each_kind_is_asked_for_by_name(ours, tmp_path):
    with pytest.raises(ValueError, match="is golden-paint, whose context is a picture"):
        load(ours)
    tiny = write_tiny_model(tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match="is tiny, whose context is text: to paint by example take paint-by-example"):
        load_as(PaintByExample, tiny)
    assert isinstance(load_as(LatentDiffusion, tiny), StableDiffusion)


def test_the_command_line_says_so_in_a_sentence(ours, tmp_path, capsys):
    told = refused(capsys, "generate", "a cat", "--model", ours, "--out", tmp_path / "cat.png")
    assert "is golden-paint, whose context is a picture: where text is wanted" in told


@pytest.mark.parametrize(
    "key", ["learnable_vector", "proj_out.weight", "cond_stage_model.mapper.resblocks.0.ln_1.bias"]
)
def test_a_missing_key_is_named(key, tmp_path):
    state = load_file(FILE)
    del state[key]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="missing") as error:
        load_as(PaintByExample, tmp_path / "model.safetensors", config=CONFIG)
    assert key in str(error.value)


def test_an_unknown_key_and_a_wrong_shape_are_named(tmp_path):
    state = load_file(FILE) | {"cond_stage_model.mapper.gate": torch.zeros(1), "proj_out.bias": torch.zeros(5)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="1 unknown") as error:
        load_as(PaintByExample, tmp_path / "model.safetensors", config=CONFIG)
    assert "mapper.gate" in str(error.value) and "proj_out.bias is (5,), wanted (48,)" in str(error.value)


def test_fingerprints_tell_painters_apart_and_are_the_same_from_either_layout(folder, ours):
    model = load_as(PaintByExample, FILE, config=CONFIG)
    name = fingerprint(model)
    assert name == fingerprint(load_as(PaintByExample, folder)) == fingerprint(load_as(PaintByExample, ours))
    assert mismatch(model, name) is None and "this is golden-paint" in mismatch(model, "0123456789abcdef")
    with torch.no_grad():
        model.image_encoder.empty += 1
    other = replace(CONFIG, image=replace(CONFIG.image, activation="gelu"))
    assert len({name, fingerprint(model), fingerprint(load_as(PaintByExample, FILE, config=other))}) == 3


# Converting and verifying


@pytest.mark.filterwarnings("ignore:.*predicts:UserWarning")  # a network drawn at random says nothing to a probe
def test_there_and_back_keeps_every_bit(folder, tmp_path, capsys):
    single, again = tmp_path / "single.safetensors", tmp_path / "again"
    assert main(["weights", "convert", str(folder), str(single), "--layout", "ldm"]) == 0
    assert main(["weights", "convert", str(single), str(again), "--layout", "folder"]) == 0
    published, written = load_file(FILE), load_file(single)
    buffers = {key for key in published if key not in written}
    assert len(buffers) == 13 and all(torch.equal(tensor, published[key]) for key, tensor in written.items())
    image = load_file(again / "image_encoder" / "model.safetensors")
    theirs = load_file(folder / "image_encoder" / "model.safetensors")
    assert theirs.keys() - image.keys() == {"model.vision_model.embeddings.position_ids"}
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in image.items())
    for part in ("unet", "image_encoder"):
        ours, stored = (json.loads((path / part / "config.json").read_text()) for path in (again, folder))
        assert all(stored[name] == value for name, value in ours.items() if name in stored and name != "sample_size")
    index = json.loads((again / "model_index.json").read_text())
    parts = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    assert parts == {path.name for path in again.iterdir() if path.is_dir()}
    assert load_as(PaintByExample, again).config == load_as(PaintByExample, single).config
    assert "a folder that holds" in told(capsys, "verify", again)
    report = verify(again)
    assert report.config.image == CONFIG.image and len(report.files) == 3


def told(capsys, *arguments):
    capsys.readouterr()
    assert main(["weights", *map(str, arguments), "--quiet"]) == 0
    return capsys.readouterr().out


def test_a_single_file_keeps_what_no_network_holds(tmp_path, ours):
    shutil.copy(FILE, tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(asdict(CONFIG)))
    out = tmp_path / "out.safetensors"
    flags = ["--layout", "ldm", "--config", str(config)]
    assert main(["weights", "convert", str(tmp_path / "model.safetensors"), str(out), *flags]) == 0
    published, written = load_file(FILE), load_file(out)
    assert published.keys() == written.keys()
    assert all(torch.equal(tensor, written[key]) for key, tensor in published.items())


def test_the_index_names_the_pipeline():
    for config, name in ((SD21_BASE, "StableDiffusionPipeline"), (SD2_INPAINTING, "StableDiffusionInpaintPipeline")):
        assert json.loads(texts(config)["model_index.json"])["_class_name"] == name
    written = texts(PAINT_BY_EXAMPLE)
    assert json.loads(written["model_index.json"])["_class_name"] == "PaintByExamplePipeline"
    assert json.loads(written["image_encoder/config.json"])["projection_dim"] == 768
    assert not [name for name in written if name.startswith(("text_encoder", "tokenizer"))]


def test_a_mapper_that_the_folder_cannot_describe_is_refused():
    with pytest.raises(ValueError, match="the mapper has 4 blocks of 1 heads; the folder layout knows only 5 of one"):
        image_config(replace(PAINT_BY_EXAMPLE.image, mapper_blocks=4))


def test_a_folder_that_contradicts_its_note_is_refused(tmp_path, ours):
    assert main(["weights", "convert", str(ours), str(tmp_path / "folder"), "--layout", "folder"]) == 0
    file = tmp_path / "folder" / "image_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_attention_heads": 8}))
    with pytest.raises(ValueError, match=r"photoswap.json and image_encoder/config.json say heads differently"):
        load_as(PaintByExample, tmp_path / "folder")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "siglip"}, "model_type is 'siglip'"),
        ({"num_channels": 4}, "num_channels is 4"),
        ({"intermediate_size": 100}, "want a multiple of 32"),
        ({"use_head": True}, "use_head is True"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_its_name(change, sentence, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "folder")
    file = tmp_path / "folder" / "image_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match="cannot be followed") as error:
        load_as(PaintByExample, tmp_path / "folder")
    assert sentence in str(error.value)


# What was published


@pytest.mark.parametrize("name", ["sd2-inpainting", "sd15-inpainting", "paint-by-example"])
def test_the_pinned_files_have_room_for_their_tensors(name):
    """A file is its numbers and a header of less than a megabyte."""
    manifest = {"sd2-inpainting": "sd2_inpaint_ldm", "sd15-inpainting": "sd15_inpaint_ldm"}.get(name, "pbe_ldm")
    numbers = sum(torch.Size(shape).numel() for shape in shapes(manifest).values())
    assert 0 < PUBLISHED[name].bytes - 4 * numbers < 2**20
    assert MODELS[name].name == name


def test_a_file_of_so_common_a_name_is_not_taken_for_the_published_one(tmp_path, monkeypatch):
    """model.ckpt is called paint-by-example.ckpt here; whatever else is called model.ckpt is anything."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=r"fetch paint-by-example` gets it \(5.2 GB\), .* holds paint-by-example.ckpt"):
        locate("paint-by-example")
    torch.save({"state_dict": load_file(write_tiny_model(tmp_path / "t.safetensors"))}, tmp_path / "model.ckpt")
    assert verify(tmp_path / "model.ckpt", tiny_config()).config == tiny_config()


def test_the_trainers_state_is_refused_before_it_is_opened(tmp_path, capsys):
    path = tmp_path / "model.ckpt"
    with open(path, "wb") as file:
        file.truncate(TRAINING_STATE)  # of which the disk holds nothing
    for arguments in (("verify", path), ("convert", path, tmp_path / "out.safetensors", "--layout", "ldm")):
        sentence = refused(capsys, "weights", *arguments)
        assert "is Paint by Example's training state of 12.6 GB" in sentence and "imports lightning" in sentence
        assert "model.ckpt of revision 37bfdc5, 5.2 GB, by `photoswap weights fetch paint-by-example`" in sentence
