"""A small random model that paints, with the outputs that the official code gave for it (see golden/README.md)."""

import hashlib
import json
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.config import PaintConfig, UNetConfig, VAEConfig, VisionConfig
from models.inpainting import to_mask
from models.paint_by_example import PaintByExample
from models.stable_diffusion import LatentDiffusion
from weights.folder import to_folder
from weights.load import load_as
from weights.names import VAE_ATTENTION_HF_2022, source, table, vae_hf

FOLDER = Path(__file__).parent / "golden" / "paint"
FILE = FOLDER / "ldm_layout.safetensors"
SINGLE, TRAJECTORY = 1e-5, 5e-5  # asked for; another library is itself 1.2e-5 away after ten steps
CONFIG = PaintConfig(
    name="golden-paint",
    unet=UNetConfig(
        in_channels=9,
        channels=32,
        multipliers=(1, 1, 1, 2),
        res_blocks=1,
        head_channels=None,
        heads=8,
        context_channels=48,
        linear_projection=False,
    ),
    vae=VAEConfig(channels=32, multipliers=(1, 1, 1, 2), res_blocks=1),
    native_size=128,
    image=VisionConfig(width=32, heads=4, context_channels=48),
)


def golden_painter(device: torch.device, dtype: torch.dtype = torch.float32) -> PaintByExample:
    """The model from its single file."""
    return load_as(PaintByExample, FILE, device, dtype, CONFIG)


def golden_inpainting(device: torch.device) -> LatentDiffusion:
    """The same U-Net and autoencoder, used in the order of Stable Diffusion's inpainting."""
    painter = golden_painter(device)
    return LatentDiffusion(painter.unet, painter.vae, config=CONFIG)


@cache
def _stored(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def paint_golden(key: str, device: torch.device) -> Tensor:
    """One stored input or output of Paint by Example."""
    return _stored("io")[key].to(device)


def inpaint_golden(key: str, device: torch.device) -> Tensor:
    """One stored input or output of Stable Diffusion's inpainting."""
    return _stored("sd_inpaint_io")[key].to(device)


def picture(key: str) -> Image.Image:
    """One stored file: image, mask or reference.image."""
    return Image.fromarray(_stored("io")[key].numpy())


def golden_mask(device: torch.device) -> Tensor:
    """The stored mask, 1 where it is to be repainted."""
    return to_mask(picture("mask")).to(device)


def write_folder(path: Path) -> Path:
    """The model as another library wrote it: the stored small files, and the weights under that library's names.

    The weights are not stored twice: ours are renamed, and test_paint_by_example holds every tensor of them against
    the hash of the one in the other library's file.
    """
    for small in (FOLDER / "diffusers_layout").rglob("*.json"):
        target = path / small.relative_to(FOLDER / "diffusers_layout")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(small.read_bytes())
    for network, state in folder_state().items():
        home, stem = {"image": ("image_encoder", "model")}.get(network, (network, "diffusion_pytorch_model"))
        save_file(state, path / home / f"{stem}.safetensors")
    return path


def folder_state() -> dict[str, dict[str, Tensor]]:
    """The weights under the other library's names, its old ones in the autoencoder, float16 as they are stored."""
    model = load_as(PaintByExample, FILE, dtype=torch.float16, config=CONFIG)
    state = {network: dict(tensors) for network, tensors in to_folder(model).items()}
    ours, rows = table(CONFIG, "hf", "vae"), vae_hf(VAE_ATTENTION_HF_2022)
    state["vae"] = {source(k, rows).key: state["vae"][source(k, ours).key] for k in model.vae.state_dict()}
    state["image"]["model.vision_model.embeddings.position_ids"] = torch.arange(257)[None]
    return {network: {key: t.contiguous() for key, t in tensors.items()} for network, tensors in state.items()}


def digests(state: dict[str, Tensor]) -> dict[str, str]:
    """The beginning of each tensor's hash."""
    return {key: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16] for key, tensor in state.items()}


def stored_digests() -> dict[str, dict[str, str]]:
    """Those of the other library's files, network by network."""
    return json.loads((FOLDER / "diffusers_layout" / "sha256.json").read_text())
