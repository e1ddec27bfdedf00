"""Sets of numbers to learn with: the published ones for each model, and ours for the miniature.

For every method, the changes to its configuration's defaults (train/config.py) by the name of a model, or of whose
settings they are.
"""

from collections.abc import Mapping
from typing import Any

Presets = Mapping[str, Mapping[str, Any]]

# How the miniature draws pictures of a class, on a CPU of two cores.
DRAWING = {"class_pictures": 12, "class_steps": 15, "class_guidance": 2.0, "class_batch": 12}

# "script": the defaults of the training script that DreamBooth is usually run with (diffusers'
# train_dreambooth.py) where they differ from Photoswap's; how many steps and the text encoder are its caller's choice.
# The follow-up script of Photoswap's authors has 2e-6 for SD 1.5. The miniature's numbers are for 4 references on a
# CPU of two cores, and were chosen on subjects of the benchmark's dev stream, as the ones that take half a minute: the
# token first, which costs little, then all of it at rates that fall.
DREAMBOOTH: Presets = {
    "sd21": {},
    "sd21-base": {},
    "sd15": {"learning_rate": 2e-6},
    "script": {"learning_rate": 5e-6, "random_crop": True, "resampling": "bilinear", "class_pictures": 100},
    "miniature": {
        "token_steps": 50,
        "token_learning_rate": 5e-3,
        "learning_rate": 3e-4,
        "text_learning_rate": 9e-4,
        "rate_schedule": "linear",
        "steps": 170,
        "batch": 4,
        "mirror": True,
        **DRAWING,
    },
}

# "script": the default rate of diffusers' train_dreambooth_lora.py, and how it crops and resizes.
LORA: Presets = {
    "sd21": {},
    "sd21-base": {},
    "sd15": {},
    "script": {"learning_rate": 5e-4, "random_crop": True, "resampling": "bilinear"},
    "miniature": {
        "rank": 16,
        "layers": "linear",
        "train_text_encoder": True,
        "learning_rate": 1e-3,
        "steps": 350,
        "batch": 4,
        "mirror": True,
        "prior_weight": 1.0,
        **DRAWING,
    },
}

# "script": the defaults of diffusers' textual_inversion.py, whose scheduler, "constant", ignores its 500 steps of
# warm-up. "official": of the authors' code for latent diffusion (v1-finetune.yaml).
TEXTUAL_INVERSION: Presets = {
    "sd21": {},
    "sd21-base": {},
    "sd15": {},
    "script": {"learning_rate": 1e-4, "steps": 5000, "batch": 16, "mirror": True},
    "official": {"learning_rate": 5e-3, "scale_learning_rate": True, "steps": 6100, "batch": 2, "mirror": True},
    "miniature": {
        "templates": ("a photo of a {}",),
        "tokens_per_word": 4,
        "learning_rate": 1e-2,
        "steps": 350,
        "mirror": True,
    },
}

# "script": the defaults of diffusers' train_custom_diffusion.py; its README's example has the authors' numbers.
CUSTOM_DIFFUSION: Presets = {
    "sd21": {},
    "sd21-base": {},
    "sd15": {},
    "script": {"batch": 4, "scale_learning_rate": False, "mirror": False},
    "miniature": {
        "learning_rate": 1e-3,
        "scale_learning_rate": False,
        "steps": 350,
        "batch": 4,
        "zoom": False,
        "prior_weight": 1.0,
        **DRAWING,
    },
}

PRESETS: Mapping[str, Presets] = {
    "dreambooth": DREAMBOOTH,
    "lora": LORA,
    "textual-inversion": TEXTUAL_INVERSION,
    "custom-diffusion": CUSTOM_DIFFUSION,
}
