"""A folder's own configuration: read by name, followed in every number, and refused by name where it asks for more."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from golden_model import LAYOUTS, golden_config
from safetensors.torch import load_file, save_file
from test_convert import CONFIGS, assert_same
from tiny_model import tiny_config, tiny_model

from models.config import MINIATURE, MODELS, SD15, SD21, SD21_BASE
from models.tokenizer import Tokenizer
from samplers import Schedule
from weights.files import open_files
from weights.folder import save_folder, texts
from weights.folder_config import SCHEDULER, TEXT, UNET, VAE
from weights.load import load, meta_model, save
from weights.recognise import CONFIG_KEY, NOTE, recognise

V, EPS = "v_prediction", "epsilon"


def write_texts(config, path):
    """The small files of a folder, without weights."""
    for name, content in texts(config).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content, encoding="utf-8")
    (path / NOTE).unlink()
    return path


@pytest.fixture
def folder(tmp_path):
    """The small files of the tiny model, its v said by the scheduler, and no note."""
    return write_texts(tiny_config(), tmp_path / "model")


def change(folder, file, **entries):
    """Say something else in one of the files; None stands for leaving it out."""
    data = json.loads((folder / file).read_text()) | entries
    (folder / file).write_text(json.dumps({name: value for name, value in data.items() if value != "left out"}))


def without_rest(config):
    """As a folder has it: no layers beyond those that run."""
    return replace(config, text=replace(config.text, stored_layers=config.text.layers))


def recognised(path, **what):
    """What a folder of these files would be, without its weights being read."""
    conditioner = "image" if (path / "image_encoder").is_dir() else "text"
    return recognise({"unet": Shapes(), "vae": Shapes(), conditioner: Shapes()}, path, str(path), **what)


class Shapes(dict):
    """Open files of which nothing is asked but how many tensors they hold."""

    def __len__(self):
        return 500


# What is written is what is read


def test_a_folder_that_another_library_wrote_needs_no_configuration(device):
    """The numbers of golden/config.json, found in the folder's own files; the file has only the layers that run."""
    found = load(LAYOUTS["diffusers"], device)
    assert found.config == replace(without_rest(golden_config()), name="diffusers_layout")
    assert_same(found, load(LAYOUTS["diffusers"], device, config=without_rest(golden_config())))


@pytest.mark.parametrize("name", MODELS)
def test_the_known_models_are_known_by_their_numbers(tmp_path, name):
    path = write_texts(MODELS[name], tmp_path)
    assert recognised(path) == (MODELS[name], SCHEDULER, True, False)


def test_folders_as_they_were_published(tmp_path):
    """What the published files say, their samplers' settings and names of later versions among it."""
    later = {
        **dict.fromkeys(("addition_embed_type", "class_embed_type", "cross_attention_norm", "encoder_hid_dim"), None),
        **dict.fromkeys(("num_class_embeds", "time_cond_proj_dim", "upcast_attention", "timestep_post_act"), None),
        **{"addition_embed_type_num_heads": 64, "class_embeddings_concat": False, "dual_cross_attention": False},
        **{"mid_block_type": "UNetMidBlock2DCrossAttn", "resnet_out_scale_factor": 1.0, "_name_or_path": "./x"},
        **{"only_cross_attention": False, "resnet_time_scale_shift": "default", "_diffusers_version": "0.17.0.dev0"},
    }
    noise = {
        "_class_name": "PNDMScheduler",
        "skip_prk_steps": True,
        "trained_betas": None,
        "timestep_spacing": "left out",
    }
    noise |= {"thresholding": False, "clip_sample_range": 1.0, "dynamic_thresholding_ratio": 0.995}
    for known, end in ((SD21_BASE, 2), (SD15, 2), (SD21, 2)):
        path = write_texts(known, tmp_path / known.name)
        change(path, UNET, **later)
        change(path, SCHEDULER, **noise)
        change(path, VAE, scaling_factor="left out", sample_size=768)
        change(path, TEXT, bos_token_id=0, eos_token_id=end, pad_token_id=1, projection_dim=512, torch_dtype="float16")
        change(path, "tokenizer/tokenizer_config.json", pad_token="<|endoftext|>")  # which the other file overrules
        assert recognised(path).config == known


NOISES = [
    Schedule(rescale_zero_snr=True, spacing="trailing"),
    Schedule(rescale_zero_snr=True, spacing="trailing", set_alpha_to_one=True, offset=0),
    Schedule(prediction="eps", beta_start=0.0001, beta_end=0.02, beta_schedule="linear", train_steps=500),
    Schedule(spacing="linspace"),
]
ODD = replace(
    tiny_config(),
    unet=replace(tiny_config().unet, channels=48, multipliers=(1, 1, 3, 2), depth=2, groups=6, head_channels=24),
    vae=replace(tiny_config().vae, multipliers=(1, 3, 3, 5), groups=8, scale_factor=0.13025),
    text=replace(tiny_config().text, heads=2, mlp_ratio=3, stored_layers=2, padding="eot"),
    native_size=192,
)


@pytest.mark.parametrize(
    "config", [*(replace(tiny_config(), noise=noise) for noise in NOISES), *CONFIGS.values(), ODD], ids=range(7)
)
def test_every_number_makes_the_round_trip(tmp_path, config):
    """Written into a folder, whose note is then taken away, read from its files, and from there into a single file."""
    config = replace(config, name="model")
    model = meta_model(config)
    for network in (model.unet, model.vae, model.text_encoder):
        network.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    save_folder(model, tmp_path / "model")
    (tmp_path / "model" / NOTE).unlink()
    again = load(tmp_path / "model")
    assert again.config == without_rest(config)
    assert_same(again, model)
    save(again, tmp_path / "single.safetensors")
    assert load(tmp_path / "single.safetensors").config == again.config


def test_a_schedule_from_the_folder_is_the_one_sampled_with(tmp_path):
    """Zero terminal SNR and trailing steps: the first step is called at 999, on nothing but noise."""
    model = tiny_model()
    save_folder(model, tmp_path / "model")
    change(tmp_path / "model", SCHEDULER, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    (tmp_path / "model" / NOTE).unlink()
    first, *_ = load(tmp_path / "model").config.noise.sampling(10)
    assert (first.t, first.alpha_from) == (999, 0.0)
    known, *_ = model.config.noise.sampling(10)
    assert (known.t, known.alpha_from > 0.004) == (901, True)


# What is read


@pytest.mark.parametrize(
    ("file", "said", "read"),
    [
        (UNET, {"norm_num_groups": 2}, lambda config: config.unet.groups == 2),
        (UNET, {"attention_head_dim": 4}, lambda config: (config.unet.heads, config.unet.head_channels) == (4, None)),
        (UNET, {"attention_head_dim": [1, 1, 2, 2]}, lambda config: config.unet.head_channels == 16),
        (UNET, {"sample_size": [8, 24]}, lambda config: config.native_size == 192),
        (UNET, {"sample_size": 1}, lambda config: config.native_size == 64),
        (UNET, {"in_channels": 9}, lambda config: config.unet.in_channels == 9),
        (UNET, {"transformer_layers_per_block": [2, 2, 2, 2]}, lambda config: config.unet.depth == 2),
        (VAE, {"scaling_factor": 0.5}, lambda config: config.vae.scale_factor == 0.5),
        (VAE, {"norm_num_groups": 2}, lambda config: config.vae.groups == 2),
        (TEXT, {"hidden_act": "quick_gelu"}, lambda config: config.text.activation == "quick_gelu"),
        (TEXT, {"num_attention_heads": 6}, lambda config: config.text.heads == 6),
        (SCHEDULER, {"beta_end": 0.02}, lambda config: config.noise.beta_end == 0.02),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, lambda config: config.noise.rescale_zero_snr),
        (SCHEDULER, {"timestep_spacing": "trailing"}, lambda config: config.noise.spacing == "trailing"),
        (SCHEDULER, {"set_alpha_to_one": True}, lambda config: config.noise.set_alpha_to_one),
        (SCHEDULER, {"steps_offset": 0}, lambda config: config.noise.offset == 0),
        (SCHEDULER, {"beta_schedule": "linear"}, lambda config: config.noise.beta_schedule == "linear"),
        (SCHEDULER, {"num_train_timesteps": 500}, lambda config: config.noise.train_steps == 500),
        (SCHEDULER, {"prediction_type": "left out"}, lambda config: config.noise.prediction == "eps"),
        ("tokenizer/special_tokens_map.json", {"pad_token": "<|endoftext|>"}, lambda c: c.text.padding == "eot"),
        ("tokenizer/special_tokens_map.json", {"pad_token": {"content": "!"}}, lambda c: c.text.padding == "zero"),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_what_a_file_says_is_followed(folder, file, said, read):
    change(folder, file, **said)
    assert read(recognised(folder).config)


def test_of_a_known_network_only_the_noise_may_be_another(tmp_path):
    """A fine-tune of SD 2.1 up to pure noise: the networks and their name, with the folder's own schedule and size."""
    path = write_texts(SD21, tmp_path)
    change(path, SCHEDULER, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    change(path, UNET, sample_size=64)
    noise = Schedule(rescale_zero_snr=True, spacing="trailing")
    assert recognised(path).config == replace(SD21, noise=noise, native_size=512)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_without_the_file_of_a_network_its_shapes_say_what_it_is(tmp_path, file):
    path = write_texts(SD21_BASE, tmp_path)
    (path / file).unlink()
    shapes = {"conv_in.weight": torch.empty(320, 4, 3, 3, device="meta")}
    to_k = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    files = {"unet": Named(shapes | {to_k: torch.empty(320, 1024, device="meta")}), "vae": Named(), "text": Named()}
    assert recognise(files, path, "x").config == SD21_BASE
    change(path, SCHEDULER, prediction_type=V)
    assert recognise(files, path, "x").config == replace(SD21, native_size=512 if file != UNET else 768)
    with pytest.raises(ValueError, match=r"fits none of sd21, .*, paint-by-example: for another, pass its config"):
        recognise({"unet": Named(), "vae": Named(), "text": Named()}, path, "x")


class Named(dict):
    path = "a file"


def test_without_a_schedule_the_network_is_asked(folder, tmp_path):
    (folder / SCHEDULER).unlink()
    assert recognised(folder)[1:] == (None, False, False)
    path = write_texts(SD21, tmp_path / "sd21")
    (path / SCHEDULER).unlink()
    assert recognised(path)[1:] == (None, False, False)
    path = write_texts(SD15, tmp_path / "sd15")
    (path / SCHEDULER).unlink()
    assert recognised(path) == (SD15, "its shapes", True, False)  # all that have them predict eps


# What is refused


REFUSED = [
    (SCHEDULER, "clip_sample", True),
    (SCHEDULER, "thresholding", True),
    (SCHEDULER, "trained_betas", [0.1, 0.2]),
    (SCHEDULER, "prediction_type", "sample"),
    (SCHEDULER, "beta_schedule", "squaredcos_cap_v2"),
    (SCHEDULER, "timestep_spacing", "random"),
    (SCHEDULER, "snr_shift_scale", 3.0),
    (SCHEDULER, "use_flow_sigmas", True),
    (SCHEDULER, "_class_name", "FlowMatchEulerDiscreteScheduler"),
    (UNET, "_class_name", "UNetMotionModel"),
    (UNET, "act_fn", "gelu"),
    (UNET, "addition_embed_type", "text_time"),
    (UNET, "attention_type", "gated"),
    (UNET, "center_input_sample", True),
    (UNET, "class_embed_type", "projection"),
    (UNET, "num_class_embeds", 1000),
    (UNET, "conv_in_kernel", 1),
    (UNET, "cross_attention_norm", "layer_norm"),
    (UNET, "dual_cross_attention", True),
    (UNET, "encoder_hid_dim", 1280),
    (UNET, "flip_sin_to_cos", False),
    (UNET, "freq_shift", 1),
    (UNET, "mid_block_type", "UNetMidBlock2D"),
    (UNET, "norm_eps", 1e-6),
    (UNET, "num_attention_heads", 8),
    (UNET, "only_cross_attention", True),
    (UNET, "resnet_time_scale_shift", "scale_shift"),
    (UNET, "time_cond_proj_dim", 256),
    (UNET, "time_embedding_type", "fourier"),
    (UNET, "a_name_of_tomorrow", "on"),
    (UNET, "block_out_channels", [16, 24, 32, 32]),
    (UNET, "down_block_types", ["AttnDownBlock2D"] * 4),
    (UNET, "up_block_types", ["CrossAttnUpBlock2D"] * 4),
    (UNET, "layers_per_block", [1, 2, 1, 1]),
    (UNET, "transformer_layers_per_block", [0, 2, 10, 10]),
    (UNET, "attention_head_dim", [2, 4, 2, 2]),
    (VAE, "shift_factor", 0.1159),
    (VAE, "latents_mean", [0.1] * 4),
    (VAE, "use_quant_conv", False),
    (VAE, "mid_block_add_attention", False),
    (VAE, "down_block_types", ["AttnDownEncoderBlock2D"] * 4),
    (TEXT, "hidden_act", "gelu_new"),
    (TEXT, "layer_norm_eps", 1e-6),
    (TEXT, "model_type", "t5"),
    (TEXT, "intermediate_size", 97),
    ("tokenizer/special_tokens_map.json", "pad_token", "<pad>"),
]


def sentence(path, **what):
    with pytest.raises(ValueError) as error:
        recognised(path, **what)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    return str(error.value)


@pytest.mark.parametrize(("file", "name", "value"), REFUSED, ids=str)
def test_what_is_not_computed_here_is_refused_by_name(folder, file, name, value):
    change(folder, file, **{name: value})
    told = sentence(folder)
    assert name in told and (file in told or "text_encoder" in told)
    assert recognised(folder, config=tiny_config()).config == tiny_config()  # which overrules it


def test_eps_up_to_pure_noise_is_refused(folder):
    change(folder, SCHEDULER, rescale_betas_zero_snr=True, prediction_type=EPS)
    assert "rescale_zero_snr with prediction 'eps'" in sentence(folder)


def test_another_number_of_levels_is_refused(folder):
    three = {"block_out_channels": [16, 16, 32], "attention_head_dim": 2, "layers_per_block": 1}
    change(folder, UNET, **three, down_block_types=["DownBlock2D"] * 3, up_block_types=["UpBlock2D"] * 3)
    assert "the U-Net has 4 levels" in sentence(folder)


def test_other_networks_in_the_index_are_refused(folder):
    for name, kind in {"unet": "SD3Transformer2DModel", "tokenizer": "BertTokenizer", "text_encoder_2": "CLIP"}.items():
        change(folder, "model_index.json", **{name: ["x", kind]})
        assert f"has {name} {kind!r}; want" in sentence(folder)
        write_texts(tiny_config(), folder)


def test_a_tokenizer_with_words_of_its_own_is_refused(folder):
    (folder / "tokenizer" / "added_tokens.json").write_text('{"<|endoftext|>": 49407}')
    recognised(folder)
    (folder / "tokenizer" / "added_tokens.json").write_text('{"<my-cat>": 49408}')
    assert "a word of its own, '<my-cat>'" in sentence(folder)


BAD = [None, "x", -1, 0, 1.5, 1e999, float("nan"), 10**9, 10**400, True, [], [[]], {}, [1] * 2000, "9" * 5000]
NUMBERS = [
    *((UNET, name) for name in ("block_out_channels", "layers_per_block", "attention_head_dim", "norm_num_groups")),
    *((UNET, name) for name in ("cross_attention_dim", "transformer_layers_per_block", "in_channels", "out_channels")),
    *((VAE, name) for name in ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")),
    *((TEXT, name) for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")),
    *((TEXT, name) for name in ("num_attention_heads", "max_position_embeddings")),
    *((SCHEDULER, name) for name in ("beta_start", "beta_end", "num_train_timesteps")),
]


@pytest.mark.parametrize(("file", "name"), NUMBERS, ids=str)
def test_numbers_that_cannot_be_are_one_sentence(folder, file, name):
    good = (folder / file).read_text()
    for value in BAD:
        change(folder, file, **{name: value})
        sentence(folder)
        (folder / file).write_text(good)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT, SCHEDULER, "model_index.json", "tokenizer/special_tokens_map.json"])
@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1, 2]", b"\xff", b"[" * 5000, b'{"x": 1e999999', b" " * 2**21], ids=range(7)
)
def test_a_damaged_file_is_one_sentence(folder, file, text):
    (folder / file).write_bytes(text)
    told = sentence(folder)
    assert file in told and ("is damaged" in told or "want a small JSON file" in told)


def test_networks_that_do_not_belong_together(folder):
    change(folder, UNET, cross_attention_dim=32)
    assert "do not belong together: the U-Net wants context 32 wide" in sentence(folder)


def test_more_layers_than_tensors_are_refused_before_anything_is_built(folder, monkeypatch):
    monkeypatch.setattr("weights.load.meta_model", lambda _: pytest.fail("was built"))
    change(folder, UNET, layers_per_block=64, transformer_layers_per_block=64)
    assert "holds 1500 tensors, and model asks for 25" in sentence(folder)


# The note and the files beside it


def test_a_note_that_the_other_files_contradict_is_refused(tmp_path):
    save_folder(tiny_model(), tmp_path / "model")
    assert load(tmp_path / "model").config == tiny_config()
    for file, entries, names in (
        (SCHEDULER, {"prediction_type": EPS, "steps_offset": 0}, "prediction and offset"),
        (VAE, {"scaling_factor": 0.5}, "scale_factor"),
        (UNET, {"norm_num_groups": 2}, "groups"),
        (TEXT, {"hidden_act": "quick_gelu"}, "activation"),
    ):
        good = (tmp_path / "model" / file).read_text()
        change(tmp_path / "model", file, **entries)
        with pytest.raises(ValueError, match=f"contradicts itself: {NOTE} and {file} say {names} differently"):
            load(tmp_path / "model")
        (tmp_path / "model" / file).write_text(good)


def test_a_note_alone_is_enough(tmp_path):
    save_folder(tiny_model(), tmp_path / "model")
    for file in (UNET, VAE, TEXT, SCHEDULER, "model_index.json"):
        (tmp_path / "model" / file).unlink()
    shutil.rmtree(tmp_path / "model" / "tokenizer")
    assert load(tmp_path / "model").config == tiny_config()


# A configuration file


def test_a_configuration_file_says_what_a_checkpoint_is(tmp_path):
    save_file(load_file(write_bare(tmp_path)), tmp_path / "bare.safetensors")
    (tmp_path / "mine.json").write_text(json.dumps(asdict(replace(tiny_config(), name="mine"))))
    for config in (tmp_path / "mine.json", str(tmp_path / "mine.json")):
        assert load(tmp_path / "bare.safetensors", config=config).config == replace(tiny_config(), name="mine")
    save_folder(tiny_model(), tmp_path / "model")
    load(tmp_path / "bare.safetensors", config=tmp_path / "model" / NOTE)


def write_bare(tmp_path):
    save(tiny_model(), tmp_path / "noted.safetensors")
    return tmp_path / "noted.safetensors"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"unet": {"depth": 1000000}}', '{"vae": {"groups": NaN}}', '{"x": 1}']
)
def test_a_configuration_file_that_is_none_is_one_sentence(tmp_path, folder, text):
    (tmp_path / "mine.json").write_text(text)
    assert "mine.json" in sentence(folder, config=tmp_path / "mine.json")
    save_file({"a": torch.ones(1)}, tmp_path / "noted.safetensors", {CONFIG_KEY: text or "x"})
    with pytest.raises(ValueError, match=r"noted\.safetensors holds no usable model configuration"):
        load(tmp_path / "noted.safetensors")


@pytest.mark.parametrize("name", ["sdxl", "x" * 9000, "a\0b", "/"])
def test_a_configuration_that_is_neither_name_nor_file(folder, name):
    wanted = f"want one of {', '.join(MODELS)}, or a JSON file"
    assert wanted in sentence(folder, config=name)


def test_the_miniature_is_not_guessed_from_its_shapes(tmp_path):
    """Nothing in them tells its heads, its groups and its scale; what is made here bears a note."""
    state = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(MINIATURE.unet.channels, 4, 3, 3)}
    to_k = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file(state | {to_k: torch.zeros(32, 64)}, tmp_path / "bare.safetensors")
    with pytest.raises(
        ValueError, match=r"fits none of sd21, .*, paint-by-example: for another, pass its config \(--config"
    ):
        recognise(open_files(tmp_path / "bare.safetensors"), tmp_path / "bare.safetensors", "bare")


# The tokenizer


def test_an_exclamation_mark_is_a_word_and_no_padding():
    """Token 0 is "!" inside a word and pads SD 2.x; at a word's end it is 256, and other tools must be told not to take
    it for padding wherever it stands."""
    written = json.loads(texts(SD21)["tokenizer/tokenizer_config.json"])
    assert written["split_special_tokens"] is True and written["pad_token"] == "!"
    ids = Tokenizer()("a cat!")[0].tolist()
    assert ids[:5] == [49406, 320, 2368, 256, 49407] and set(ids[5:]) == {0}
    assert json.loads(texts(SD21)["tokenizer/vocab.json"])["!</w>"] == 256
