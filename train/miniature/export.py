"""Put what the two trainings left into one checkpoint: python -m train.miniature.export

The autoencoder, and the averages of the U-Net and of the text encoder, in the single-file layout of SD 2.1 and in
float16: eleven bits of mantissa, half the bytes. The file is read back as anybody will read it, which is also how the
rounding is measured.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from models.config import MINIATURE, ModelConfig
from models.stable_diffusion import StableDiffusion
from train.miniature.start import autoencoder_weights, diffusion_weights
from train.run_file import copy_into
from weights.load import load, meta_model, networks_of, save
from weights.names import NetworkName

Rounding = tuple[float, str]


def assemble(autoencoder: Mapping[str, Tensor], average: Mapping[str, Tensor], config: ModelConfig) -> StableDiffusion:
    """The complete model in float32 on the CPU.

    autoencoder: its state. average: "unet.NAME" and "text.NAME" to weights. Raises ValueError naming tensors that are
    missing, unknown or of another shape, and those that float16 cannot hold.
    """
    model = meta_model(config)
    tensors = {f"vae.{name}": tensor for name, tensor in autoencoder.items()} | dict(average)
    copy_into({part: network.to_empty(device="cpu").eval() for part, network in networks_of(model).items()}, tensors)
    beyond = [name for name, tensor in tensors.items() if not tensor.half().isfinite().all()]
    if beyond:
        raise ValueError(f"float16 cannot hold {', '.join(beyond[:10])}: has the training come apart?")
    return model


@torch.no_grad()
def rounding(exact: nn.Module, rounded: nn.Module) -> Rounding:
    """The largest ||rounded - exact|| / ||exact|| over the tensors of a network, and whose it is."""
    pairs = zip(exact.state_dict().items(), rounded.state_dict().values(), strict=True)
    return max((float((b - a).norm() / a.norm().clamp_min(1e-30)), name) for (name, a), b in pairs)


def export(
    autoencoder: Path, diffusion: Path, out: Path, config: ModelConfig = MINIATURE
) -> dict[NetworkName, Rounding]:
    """Write the checkpoint, complete or not at all; the rounding of each network.

    autoencoder: the state that its training saved. diffusion: the checkpoint of the other training. Either may be a
    complete checkpoint, whose networks are kept. Raises ValueError when one of them is missing or something else.
    """
    model = assemble(autoencoder_weights(autoencoder), diffusion_weights(diffusion), config)
    save(model, out, torch.float16)
    written = networks_of(load(out, config=config))
    return {part: rounding(network, written[part]) for part, network in networks_of(model).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, default=Path("runs/autoencoder/autoencoder.pt"))
    parser.add_argument("--diffusion", type=Path, default=Path("runs/diffusion/checkpoint.pt"))
    parser.add_argument("--out", type=Path, default=Path("weights/miniature.safetensors"))
    args = parser.parse_args()
    try:
        found = export(args.autoencoder, args.diffusion, args.out)
    except ValueError as error:
        parser.error(str(error))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
    for part, (most, name) in found.items():
        print(f"{part}: rounding at most {most:.1e}, in {name}")


if __name__ == "__main__":
    main()
