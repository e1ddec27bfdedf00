"""Networks small enough to test in milliseconds, with every parameter drawn, and what is asked of any of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models import ModelConfig, TextConfig, UNet, UNetConfig, VAEConfig, VisionConfig
from samplers import Schedule

UNET = UNetConfig(
    channels=16,
    multipliers=(1, 1, 2, 2),
    res_blocks=1,
    attention_levels=(0, 1),
    head_channels=8,
    context_channels=24,
    groups=4,
)
VAE = VAEConfig(channels=8, multipliers=(1, 1, 2, 2), res_blocks=1, groups=4)
TEXT = TextConfig(width=24, heads=3, layers=2, stored_layers=3)
VISION = VisionConfig(width=24, heads=3, layers=2, size=12, patch=4, mapper_blocks=2, context_channels=16)
MODEL = ModelConfig(name="tiny", unet=UNET, vae=VAE, text=TEXT, noise=Schedule(prediction="eps"), native_size=64)


def drawn(module: nn.Module, device: torch.device, seed: int = 0) -> nn.Module:
    """The module with every parameter drawn, none left at zero or one, so that a forgotten term shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
            centre = 1.0 if f".{name}".rsplit(".", 2)[-2].startswith("norm") and name.endswith("weight") else 0.0
            parameter.copy_(centre + noise / fan_in**0.5)
    return module.to(device)


def normal(*shape: int, device: torch.device, seed: int = 1) -> Tensor:
    """Standard normal numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def unet_inputs(device: torch.device, rows: int = 2, side: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps and context for a tiny U-Net, all rows different."""
    steps = torch.linspace(10, 900, rows).long().to(device)
    return normal(rows, 4, side, side, device=device), steps, normal(rows, 7, 24, device=device, seed=2)


def tiny_unet(device: torch.device, config: UNetConfig = UNET) -> UNet:
    """A drawn U-Net that wants no gradients."""
    return drawn(UNet(config), device).requires_grad_(False).eval()


def flash_dtype(device: torch.device) -> torch.dtype:
    """A dtype that the flash backend of this device takes; skips the test where there is none."""
    if device.type != "cuda":
        return torch.float32
    if torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip("flash attention needs compute capability 8.0")
    return torch.float16


def distance(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b|| over whole tensors, in float64 on the CPU."""
    a, b = (x.detach().to("cpu", torch.float64) for x in (a, b))
    assert a.shape == b.shape
    return ((a - b).norm() / b.norm()).item()


def assert_gradients_reach_everything(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """A loss on the output moves every parameter."""
    module.requires_grad_(True).zero_grad()
    output = run()
    (output * torch.linspace(0.5, 1.5, output.numel(), device=output.device).reshape(output.shape)).sum().backward()
    still = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still, f"no gradient at {still}"


def assert_rows_are_independent(run: Callable[..., Tensor], *batches: Tensor) -> None:
    """Changing the other rows leaves a row as it was. Bitwise on the CPU, where the kernels work row by row."""
    before = run(*batches)
    changed = [torch.cat([batch[:1], batch[1:].flip(-1) + 1]) for batch in batches]
    after = run(*changed)
    torch.testing.assert_close(after[0], before[0], rtol=1e-5, atol=1e-6)  # a GPU may sum in another order
    assert not torch.allclose(after[1], before[1])
