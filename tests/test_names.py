"""Real keys through the real table: every file that was published, on the meta device."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from models.config import PAINT_BY_EXAMPLE, SD2_INPAINTING, SD15, SD15_INPAINTING, SD21, SD21_BASE, AnyConfig
from weights.load import meta_model, networks_of, rename, to_ldm
from weights.names import Layout, NetworkName, not_needed, source, table

MANIFESTS = Path(__file__).parent / "manifests"
# 2.1 (768) and 2.1-base have the same keys and shapes, and one VAE serves all of them.
FILES: dict[str, tuple[AnyConfig, NetworkName | None]] = {
    "sd21_ldm": (SD21, None),
    "sd15_ldm": (SD15, None),
    "sd21_diffusers_unet": (SD21, "unet"),
    "sd21_diffusers_text_encoder": (SD21_BASE, "text"),
    "sd15_diffusers_unet": (SD15, "unet"),
    "sd15_diffusers_text_encoder": (SD15, "text"),
    "sd_diffusers_vae": (SD21, "vae"),
    "sd15_inpaint_ldm": (SD15_INPAINTING, None),
    "sd15_inpaint_diffusers_unet": (SD15_INPAINTING, "unet"),
    "sd2_inpaint_ldm": (SD2_INPAINTING, None),
    "sd2_inpaint_diffusers_unet": (SD2_INPAINTING, "unet"),
    "sd_diffusers_vae_2022_names": (SD15, "vae"),  # Paint by Example's too, by the date of its folder
    "pbe_ldm": (PAINT_BY_EXAMPLE, None),
    "pbe_diffusers_unet": (PAINT_BY_EXAMPLE, "unet"),
    "pbe_diffusers_image_encoder": (PAINT_BY_EXAMPLE, "image"),
}


@cache
def shapes(name: str) -> dict[str, list[int]]:
    return json.loads((MANIFESTS / f"{name}.json").read_text())


def state(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes(name).items()}


def parts(name: str) -> tuple[Layout, tuple[NetworkName, ...]]:
    part = FILES[name][1]
    return ("hf", (part,)) if part else ("ldm", tuple(networks_of(meta_model(FILES[name][0]))))


def test_every_manifest_is_tried():
    assert {path.stem for path in MANIFESTS.glob("*.json")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_used_once_or_on_the_list(name):
    config, part = FILES[name]
    layout, wanted = parts(name)
    networks = networks_of(meta_model(config))
    sources = [source(key, table(config, layout, p, shapes(name))) for p in wanted for key in networks[p].state_dict()]
    assert len(set(sources)) == len(sources)
    fused = {s.key for s in sources if s.third is not None}
    assert {s.third for s in sources if s.key in fused} <= {0, 1, 2}
    assert sum(s.key in fused for s in sources) == 3 * len(fused)
    used = {s.key for s in sources}
    unused = set(shapes(name)) - used
    assert used <= set(shapes(name))
    assert all(not_needed(key, config, layout, part) for key in unused)
    assert not any(not_needed(key, config, layout, part) for key in used)


@pytest.mark.parametrize("name", FILES)
def test_every_parameter_is_filled_in_its_shape(name):
    config, part = FILES[name]
    renamed = rename(state(name), config, part)
    networks = networks_of(meta_model(config))
    for p in parts(name)[1]:
        ours = {key: value.shape for key, value in networks[p].state_dict().items()}
        assert {key: value.shape for key, value in renamed[p].items()} == ours


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("sd21_ldm", 12 + 12 + 2),
        ("sd15_ldm", 12 + 1),
        ("sd2_inpaint_ldm", 12 + 12 + 2),
        ("sd15_inpaint_ldm", 12 + 1),
        ("pbe_ldm", 12 + 1),
    ],
)
def test_the_list_of_things_not_needed_is_short(name, unused):
    """12 schedule buffers; then the last layer's 12 tensors, projection and temperature, or the position ids."""
    config, _ = FILES[name]
    assert sum(not_needed(key, config, "ldm") for key in shapes(name)) == unused


@pytest.mark.parametrize("name", ["sd21_ldm", "sd15_ldm", "sd2_inpaint_ldm", "sd15_inpaint_ldm", "pbe_ldm"])
def test_writing_gives_the_published_keys_and_shapes(name):
    config, _ = FILES[name]
    written = {key: list(tensor.shape) for key, tensor in to_ldm(meta_model(config)).items()}
    assert written == {key: shape for key, shape in shapes(name).items() if not not_needed(key, config, "ldm")}


def test_published_parameter_counts():
    """865.9 M in the U-Net, 83.65 M in the VAE; 340.4 M in the 23 of 24 text layers that run."""
    counts = {
        part: sum(p.numel() for p in network.parameters()) for part, network in networks_of(meta_model(SD21)).items()
    }
    assert counts == {"unet": 865_910_724, "vae": 83_653_863, "text": 340_387_840}


def test_paint_by_example_has_the_published_number_of_parameters():
    """1,310,140,139 in all, of 5.24 GB in float32: no average and no optimizer's state."""
    counts = {
        part: sum(p.numel() for p in network.parameters())
        for part, network in networks_of(meta_model(PAINT_BY_EXAMPLE)).items()
    }
    assert sum(counts.values()) == 1_310_140_139
    assert counts["unet"] == 859_520_964 + 5 * 9 * 320 and counts["vae"] == 83_653_863  # SD 1.5's, and five channels


@pytest.mark.parametrize("name", FILES)
def test_a_missing_key_is_named(name):
    config, part = FILES[name]
    tensors = state(name)
    gone = next(key for key in tensors if not not_needed(key, config, parts(name)[0], part))
    del tensors[gone]
    with pytest.raises(ValueError, match="missing") as error:
        rename(tensors, config, part)
    assert gone in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_unknown_keys_are_named_up_to_five(name):
    config, part = FILES[name]
    tensors = state(name) | {f"lora.{i:02d}.weight": torch.empty(1, device="meta") for i in range(12)}
    with pytest.raises(ValueError, match="12 unknown") as error:
        rename(tensors, config, part)
    assert "lora.04.weight and 7 more" in str(error.value)
    assert "lora.10.weight" not in str(error.value)


def test_a_wrong_shape_is_named_with_both_shapes():
    tensors = state("sd_diffusers_vae")
    tensors["quant_conv.weight"] = torch.empty(6, 6, 1, 1, device="meta")
    with pytest.raises(ValueError, match=r"quant_conv.weight is \(6, 6, 1, 1\), wanted \(8, 8, 1, 1\)"):
        rename(tensors, SD21, "vae")


def test_averaged_weights_may_lie_unused():
    tensors = state("sd15_ldm") | {"model_ema.decay": torch.empty((), device="meta")}
    rename(tensors, SD15)


def test_a_key_of_ours_without_a_row_is_an_error():
    with pytest.raises(ValueError, match="no row"):
        source("down.0.resblocks.0.gate.weight", table(SD21, "ldm", "unet"))


@pytest.mark.parametrize("layout", ["ldm", "hf"])
def test_a_network_without_names_is_refused(layout):
    with pytest.raises(ValueError, match="no names are known for a network 'image': want one of unet, vae, text"):
        table(SD15, layout, "image")


def test_paint_by_example_has_no_names_for_a_text_encoder():
    with pytest.raises(ValueError, match="no names are known for a network 'text': want one of unet, vae, image"):
        table(PAINT_BY_EXAMPLE, "ldm", "text")
