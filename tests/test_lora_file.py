"""train.concepts.lora_file: the names and notes that other tools look for, and everybody's files read strictly."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model

from models.config import SD15, SD21
from train.concepts import Concept, LowRank, Replaced, apply_concept, open_concept, save_concept, save_lora
from train.concepts.module_names import adapted, find
from weights import fingerprint
from weights.load import meta_model, networks_of

MANIFESTS = Path(__file__).parent / "manifests"
LINEAR = re.compile(r"(attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2)|proj_in|proj_out)\.weight")
TO_K = "unet.down.0.transformers.0.blocks.0.attn2.to_k.weight"
PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
Q = "text.layers.1.attn.to_q.weight"


def expected(which: str) -> dict[str, list[int]]:
    """Kohya's names by the keys of the published files, and the shape of each weight: no table of ours is asked."""
    unet = json.loads((MANIFESTS / f"{which}_diffusers_unet.json").read_text())
    text = json.loads((MANIFESTS / f"{which}_diffusers_text_encoder.json").read_text())
    names = {f"lora_unet_{k}": v for k, v in unet.items() if ".attentions." in k and LINEAR.search(k)}
    names |= {
        f"lora_te_{k}": v
        for k, v in text.items()
        if ".layers." in k and k.endswith(".weight") and "norm" not in k and k.split(".")[3] != "23"
    }
    return {k.removesuffix(".weight").replace(".", "_"): v for k, v in names.items()}


def lora(config, rank=2, base="2-0123456789abcdef") -> Concept:
    """A change of everything that kohya's trainer adapts."""
    places = {f"{n}.{k}": p for n, net in networks_of(meta_model(config)).items() for k, p in net.named_parameters()}
    changes = {
        n: LowRank(torch.ones(len(places[n]), rank), torch.ones(rank, places[n].shape[1]), 1.0) for n in adapted(config)
    }
    return Concept(base, config.name, "sks", "cat", "a photo of a sks cat", "", {"rank": rank}, changes)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def halves(model):
    """up and down for the layer at PATH, and for the query of the second text layer."""
    places = {f"{n}.{k}": p for n, net in networks_of(model).items() for k, p in net.named_parameters()}
    g = torch.Generator().manual_seed(0)

    def of(name, rank=2):
        o, i = places[name].shape
        return torch.randn(o, rank, generator=g), torch.randn(rank, i, generator=g)

    return of


def put(path, tensors, notes=None):
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, path, notes)
    return path


# Written


@pytest.mark.parametrize(("config", "which", "modules"), [(SD21, "sd21", 192 + 23 * 6), (SD15, "sd15", 192 + 12 * 6)])
def test_every_name_and_shape_is_kohyas(config, which, modules, tmp_path):
    wanted = expected(which)
    assert len(wanted) == modules
    save_lora(lora(config, rank=1), tmp_path / "a.safetensors", config, torch.float16)
    found = load_file(tmp_path / "a.safetensors")
    assert set(found) == {f"{n}.{end}" for n in wanted for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    for name, (rows, columns, *ones) in wanted.items():
        assert list(found[f"{name}.lora_down.weight"].shape) == [1, columns, *ones]
        assert list(found[f"{name}.lora_up.weight"].shape) == [rows, 1, *ones]
        assert found[f"{name}.alpha"].shape == ()


def test_the_notes_are_those_that_other_tools_read(tmp_path):
    save_lora(lora(SD21, rank=3), tmp_path / "a.safetensors", SD21)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        notes = file.metadata()
    wanted = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "1",
        "ss_v2": "True",
        "ss_base_model_version": "sd_v2_v",
        "modelspec.architecture": "stable-diffusion-v2-768-v/lora",
        "modelspec.prediction_type": "v",
        "modelspec.trigger_phrase": "sks cat",
    }
    assert wanted.items() <= notes.items()


def test_what_is_written_is_read_back_and_always_the_same_bytes(tmp_path):
    made = lora(SD21)
    for name in ("a", "b"):
        save_lora(made, tmp_path / f"{name}.safetensors", SD21)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    found = open_concept(tmp_path / "a.safetensors")
    assert found.about == made.about and found.subject == "sks cat"
    assert found.tensors.keys() == made.tensors.keys()
    assert all(torch.equal(found.tensors[k], made.tensors[k]) for k in made.tensors)


@pytest.mark.parametrize(
    ("changes", "words", "told"),
    [
        ({TO_K: Replaced(torch.ones(2, 2))}, {}, "attn2.to_k.weight"),
        ({TO_K: LowRank(torch.ones(2, 1), torch.ones(1, 2), 1.0)}, {"<new1>": torch.ones(1, 2)}, "<new1>"),
        ({}, {}, "nothing to write"),
        ({"vae.conv_in.weight": LowRank(torch.ones(2, 1), torch.ones(1, 2), 1.0)}, {}, "vae.conv_in"),
        ({TO_K: LowRank(torch.full((2, 1), torch.nan), torch.ones(1, 2), 1.0)}, {}, "NaN"),
    ],
)
def test_what_a_lora_cannot_hold_is_not_written(changes, words, told, tmp_path):
    made = Concept("x", "sd21", "sks", "cat", "", "", {}, changes, words)
    with pytest.raises(ValueError, match=told):
        save_lora(made, tmp_path / "a.safetensors", SD21)
    assert not list(tmp_path.iterdir())


# Read, whoever wrote it

SPELLINGS = {
    "kohya": ("lora_unet_" + PATH.replace(".", "_"), ".lora_down.weight", ".lora_up.weight"),
    "kohya, single file": (
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k",
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    "ComfyUI": (
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k",
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    "diffusers": ("unet." + PATH, ".lora.down.weight", ".lora.up.weight"),
    "diffusers 2023": (
        "unet." + PATH.replace("to_k", "processor.to_k"),
        "_lora.down.weight",
        "_lora.up.weight",
    ),
    "diffusers, U-Net alone": (PATH.replace("to_k", "processor.to_k"), "_lora.down.weight", "_lora.up.weight"),
    "PEFT in diffusers": ("unet." + PATH, ".lora_A.weight", ".lora_B.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("alpha", [None, 1.0])
@pytest.mark.parametrize("convolution", [False, True])
def test_every_spelling_is_the_same_change(spelling, alpha, convolution, model, halves, tmp_path):
    module, down_end, up_end = SPELLINGS[spelling]
    up, down = halves(TO_K, rank=4)
    kept = {module + down_end: down, module + up_end: up}
    if convolution:
        kept = {name: tensor[..., None, None] for name, tensor in kept.items()}
    if alpha:
        kept |= {f"{module}.alpha": torch.tensor(alpha)}
    found = apply_concept(model, put(tmp_path / "a.safetensors", kept), scales=[0.8])
    old, new = (m.unet.down[0].transformers[0].blocks[0].attn2.to_k.weight for m in (model, found))
    torch.testing.assert_close(new, old + 0.8 * ((alpha or 4) / 4) * up @ down)


@pytest.mark.parametrize(
    ("module", "ends"),
    [
        ("lora_te_text_model_encoder_layers_1_self_attn_q_proj", (".lora_down.weight", ".lora_up.weight")),
        (
            "text_encoder.text_model.encoder.layers.1.self_attn.q_proj",
            (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        ),
        ("text_encoder.text_model.encoder.layers.1.self_attn.to_q", ("_lora.down.weight", "_lora.up.weight")),
        ("text_encoder.text_model.encoder.layers.1.self_attn.q_proj", (".lora_A.weight", ".lora_B.weight")),
    ],
)
def test_the_text_encoder_in_every_spelling(module, ends, model, halves, tmp_path):
    up, down = halves(Q)
    found = apply_concept(model, put(tmp_path / "a.safetensors", {module + ends[0]: down, module + ends[1]: up}))
    old, new = (m.text_encoder.layers[1].attn.to_q.weight for m in (model, found))
    torch.testing.assert_close(new, old + up @ down)


def test_a_fused_projection_is_split_in_three(model, tmp_path):
    c, module = model.config.text.width, "lora_te_model_transformer_resblocks_1_attn_in_proj"
    up, down = torch.randn(3 * c, 2), torch.randn(2, c)
    kept = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    found = apply_concept(model, put(tmp_path / "a.safetensors", kept))
    product = (up @ down).chunk(3)
    for i, which in enumerate(("to_q", "to_k", "to_v")):
        old, new = (getattr(m.text_encoder.layers[1].attn, which).weight for m in (model, found))
        torch.testing.assert_close(new, old + product[i])


def test_every_layer_of_the_published_single_files_is_found():
    """With the three networks' own prefixes off, as kohya's and ComfyUI's files have them."""
    for which in ("sd21", "sd15"):
        keys = json.loads((MANIFESTS / f"{which}_ldm.json").read_text())
        linear = [k for k, v in keys.items() if len(v) in (2, 4) and "diffusion_model" in k and "weight" in k]
        assert len(linear) > 200
        names = {find(k.removesuffix(".weight"))[0].parameter for k in linear}
        assert len(names) == len(linear)


def test_convolutions_other_than_1x1(model, tmp_path):
    module, weight = "lora_unet_down_blocks_0_resnets_0_conv1", model.unet.down[0].resblocks[0].conv1.weight
    up, down = torch.randn(len(weight), 2, 1, 1), torch.randn(2, *weight.shape[1:])
    kept = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    found = apply_concept(model, put(tmp_path / "a.safetensors", kept)).unet.down[0].resblocks[0].conv1.weight
    wanted = torch.nn.functional.conv2d(down.transpose(0, 1), up).transpose(0, 1)
    torch.testing.assert_close(found, weight + wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rslora", "factor"), [(False, 6 / 4), (True, 6 / 2)])
def test_peft_notes_alpha_in_the_header_or_beside_the_file(rslora, factor, halves, tmp_path):
    up, down = halves(TO_K, rank=4)
    said = {"lora_alpha": 6, "r": 4, "use_rslora": rslora}
    notes = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in said.items()})}
    of_unet = {f"unet.{PATH}.lora_A.weight": down, f"unet.{PATH}.lora_B.weight": up}
    of_peft = {f"base_model.model.{PATH}.lora_A.weight": down, f"base_model.model.{PATH}.lora_B.weight": up}
    put(tmp_path / "a.safetensors", of_unet, notes)
    put(tmp_path / "adapter_model.safetensors", of_peft)
    with pytest.raises(ValueError, match=r"put that file beside it"):
        open_concept(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    for name in ("a", "adapter_model"):
        change = open_concept(tmp_path / f"{name}.safetensors").changes[TO_K]
        assert change.alpha / change.rank == pytest.approx(factor)


def test_two_loras_add_up(model, halves, tmp_path):
    products = []
    for name in ("a", "b"):
        up, down = halves(TO_K)
        module = SPELLINGS["kohya"][0]
        put(tmp_path / name, {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down})
        products.append(up @ down)
    found = apply_concept(model, tmp_path / "a", tmp_path / "b", scales=[0.5, -0.25])
    old, new = (m.unet.down[0].transformers[0].blocks[0].attn2.to_k.weight for m in (model, found))
    torch.testing.assert_close(new, old + 0.5 * products[0] - 0.25 * products[1])


# Refused, in one sentence


def crafted(halves) -> dict[str, tuple[dict, str]]:
    up, down = halves(TO_K)
    module = SPELLINGS["kohya"][0]
    ends = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    other = {k.replace("_to_k", "_to_cake"): v for k, v in ends.items()}
    one = f"{module}.lora_up.weight"
    twice = {f"unet.{PATH}.lora_A.weight": down, f"unet.{PATH}.lora_B.weight": up}
    return {
        "an unknown layer": (ends | other, "to_cake"),
        "another kind of tensor": (ends | {f"{module}.hada_w1_a": up}, "hada_w1_a"),
        "a magnitude": (ends | {f"{module}.dora_scale": up}, "dora_scale"),
        "half of one": ({one: up}, "no down"),
        "other ranks": ({**ends, one: torch.ones(len(up), 3)}, r"want \(o, r\) and \(r, i\)"),
        "no rank": ({one: torch.ones(len(up), 0), f"{module}.lora_down.weight": torch.ones(0, 4)}, "want"),
        "five axes": ({**ends, one: torch.ones(2, 2, 1, 1, 1)}, "want"),
        "one axis": ({**ends, one: torch.ones(2)}, "want"),
        "NaN": ({**ends, one: up * torch.nan}, "NaN"),
        "int8": ({**ends, one: up.to(torch.int8)}, "int8"),
        "fp8": ({**ends, one: up.to(torch.float8_e4m3fn)}, "float8"),
        "alphas": ({**ends, f"{module}.alpha": torch.ones(2)}, "one number"),
        "a huge alpha": ({**ends, f"{module}.alpha": torch.tensor(1e30)}, r"alpha 1e\+30"),
        "an endless alpha": ({**ends, f"{module}.alpha": torch.tensor(torch.inf)}, "infinity"),
        "an alpha alone": ({**ends, "lora_unet_mid_block_attentions_0_proj_in.alpha": torch.tensor(1.0)}, "no down"),
        "one layer twice": ({**ends, **twice}, "twice"),
        "SDXL": ({**ends, "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0)}, "SDXL"),
        "Flux": ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": down}, "no U-Net"),
    }


def cases() -> list[str]:
    return list(crafted(lambda *_: (torch.ones(4, 2), torch.ones(2, 4))))


@pytest.mark.parametrize("case", cases())
def test_a_crafted_file_is_one_sentence(case, halves, tmp_path):
    tensors, told = crafted(halves)[case]
    with pytest.raises(ValueError, match=told) as error:
        open_concept(put(tmp_path / "a.safetensors", tensors))
    assert len(str(error.value)) < 700 and "a.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_no_file_half_a_file_and_a_file_of_something_else(halves, tmp_path):
    up, down = halves(TO_K)
    path = put(tmp_path / "a.safetensors", {"x.lora_up.weight": up, "x.lora_down.weight": down})
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-10])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    put(tmp_path / "other.safetensors", {"model.weight": up})
    for name, told in (("no", "no file"), ("cut", "truncated"), ("empty", "truncated"), ("other", "model.weight")):
        with pytest.raises(ValueError, match=told):
            open_concept(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("notes", ["{", "[1]", '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": 1e300}', "[" * 10_000])
def test_spoiled_notes_are_one_sentence(notes, halves, tmp_path):
    up, down = halves(TO_K)
    kept = {f"unet.{PATH}.lora_A.weight": down, f"unet.{PATH}.lora_B.weight": up}
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        open_concept(put(tmp_path / "a.safetensors", kept, {"lora_adapter_metadata": notes}))


def test_the_wrong_base_is_named(model, tmp_path):
    module = SPELLINGS["kohya"][0]
    kept = {f"{module}.lora_up.weight": torch.ones(320, 2), f"{module}.lora_down.weight": torch.ones(2, 768)}
    with pytest.raises(ValueError, match=r"'a.safetensors' is for SD 1.x and does not fit this model, tiny"):
        apply_concept(model, put(tmp_path / "a.safetensors", kept))


def test_a_lora_of_ours_knows_its_base(model, halves, tmp_path):
    up, down = halves(TO_K)
    made = Concept(fingerprint(model), "tiny", "sks", "cat", "", "", {}, {TO_K: LowRank(up, down, 1.0)})
    save_lora(made, tmp_path / "a.safetensors", model.config)
    save_concept(made, tmp_path / "b.safetensors")
    found = [apply_concept(model, tmp_path / f"{name}.safetensors") for name in "ab"]
    assert fingerprint(found[0]) == fingerprint(found[1]) != fingerprint(model)
    with pytest.raises(ValueError, match="was learnt on tiny"):
        apply_concept(tiny_model(seed=1), tmp_path / "a.safetensors")


def test_another_prediction_is_warned_of(model, halves, tmp_path):
    up, down = halves(TO_K)
    module = SPELLINGS["kohya"][0]
    kept = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    path = put(tmp_path / "a.safetensors", kept, {"modelspec.prediction_type": "epsilon"})
    with pytest.warns(UserWarning, match="predicts epsilon, and this one predicts v"):
        apply_concept(model, path)
