"""`photoswap methods`: what it says of each method is what a run does."""

from dataclasses import replace

import pytest
import torch
from command_line import refused
from golden_model import golden_model

from models import UNet, UNetConfig
from photoswap.__main__ import main
from photoswap.listing import described, row_calls
from photoswap.methods import METHODS, Photoswap, official
from photoswap.pictures import Picture
from photoswap.side_by_side import side_by_side
from photoswap.tokens import align
from samplers import Schedule


@pytest.fixture(scope="module")
def unet():
    return golden_model("ldm", torch.device("cpu")).unet


def moments(unet, method):
    noise, context = torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, unet.config.context_channels)
    same, inside = align([1, 2], [1, 2]), {"subject": torch.ones(8, 8, dtype=torch.bool)}
    target = Picture(noise, context, context, words=(1,), masks=inside, clean=noise)
    target = replace(target, alignments={"tokens": same, "refine": same})
    source = replace(target, known=noise.expand(method.steps, -1, -1, -1))
    if method.source_prompt == "":
        source = replace(source, uncond=None)
    if method.source_guidance_scale is not None:
        source = replace(source, guidance_scale=method.source_guidance_scale)
    pictures = {"source": source, "target": target}
    if "reference" in method.wants:
        pictures["reference"] = replace(source, uncond=None)
    return side_by_side(unet, Schedule(), pictures, method, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "method", [*(kind.scaled(10) for kind in METHODS.values()), official(10)], ids=lambda m: type(m).__name__
)
def test_the_rows_it_counts_are_those_a_run_computes(unet, method):
    counted = row_calls(method, unet, Schedule(), (8, 8))
    assert counted == method.rows_before + sum(len(moment.rows) for moment in moments(unet, method))


def test_photoswap_at_fifty_steps_takes_135_rows(unet):
    assert row_calls(Photoswap(), unet, Schedule(), (64, 64)) == 135
    told = described("photoswap", Photoswap(), unet, Schedule(), (64, 64)).splitlines()
    assert told[0] == "photoswap" and "arXiv:2305.18286" in told[1]
    assert told[2].startswith("  steps=50 guidance_scale=7.5 phi=10 M=25 A=20") and "source_prompt" not in told[2]
    assert told[-1] == "  135 rows of the network in 50 steps"


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("plain", 100),
        ("sdedit", 50),
        ("diffedit", 40 + 80),
        ("blended-latent-diffusion", 76),
        ("inversion-free", 44),
        ("reference-attention", 250),  # two of the source, two of the target, one of the reference
    ],
)
def test_the_rows_of_the_methods_on_latents(name, rows):
    """At all sites of SD 2.1; the golden network has fewer than the reference's first layer counts."""
    with torch.device("meta"):
        unet = UNet(UNetConfig())
    assert row_calls(METHODS[name](), unet, Schedule(), (64, 64)) == rows


def test_every_method_is_listed_for_a_model_that_is_not_here(capsys):
    assert main(["methods", "--model", "sd21", "--steps", "20"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n{name}\n" in f"\n{told}" for name in METHODS)
    assert "16 self sites, down.0.0 to up.3.2" in told and "rows of the network in 20 steps" in told


def test_one_method_alone(capsys):
    assert main(["methods", "masactrl"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("masactrl\n") and "photoswap\n" not in told and "keys and values" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["methods", "cake"], "no method 'cake'; want one of photoswap"),
        (["methods", "--model", "cake"], "no model 'cake' is known by name; want one of"),
        (["methods", "--size", "100"], "multiples of 64"),
    ],
)
def test_what_is_not_there_is_refused(capsys, arguments, sentence):
    assert sentence in refused(capsys, *arguments)
