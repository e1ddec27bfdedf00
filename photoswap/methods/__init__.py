"""The methods of the field, one file each, as data for one loop (`photoswap.side_by_side`).

How to write a method: a frozen dataclass of its settings, under their published names and defaults, with a function
from the step (0 is the noisiest) to what goes from whom to whom. Twenty lines are a method:

    @dataclass(frozen=True, kw_only=True)
    class FreePrompt(Method):
        counts: ClassVar = ("M",)  # counts steps: is checked against `steps`, and scales with it
        M: int = 25

        def injections(self, step):
            if step < self.M:
                yield Injection("M", halves=COND)

With `injected = ("M",)` too, which says that M does nothing else, runs that differ in it alone share their work as long
as they inject the same.

`Injection` says what a quantity, its sites and its halves may be; origin and into are names of pictures, "source" and
"target" unless a method has references. What a method does beside injecting it says by overriding

    alignments   how the tokens of the two prompts answer to each other, for A
    first        at which step it begins
    start        from which latents
    followers    what watches the run and changes latents after each step (`Follower`), such as a blend
    update       another rule than DDIM's from one step to the next

all of which are given the `Run`: networks, schedule, pictures, and, where the method sets `draws`, noise from the
caller's generator. Then the class goes into METHODS, and the command line, the swap and their JSON know it. A method
imports nothing that runs.
"""

from collections.abc import Mapping
from types import MappingProxyType

from photoswap.method import Follower, Latents, Method, Run, Update

from .blended_latent_diffusion import BlendedLatentDiffusion
from .diffedit import DiffEdit
from .free_prompt_editing import FreePromptEditing
from .inversion_free import InversionFree
from .masactrl import MasaCtrl
from .official import official
from .photoswap import Photoswap
from .plain import Plain
from .plug_and_play import PlugAndPlay
from .prompt_to_prompt import PromptToPrompt
from .reference_attention import ReferenceAttention
from .sdedit import SDEdit
from .swap_anything import SwapAnything

METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {
        "photoswap": Photoswap,
        "prompt-to-prompt": PromptToPrompt,
        "plug-and-play": PlugAndPlay,
        "masactrl": MasaCtrl,
        "free-prompt-editing": FreePromptEditing,
        "swap-anything": SwapAnything,
        "plain": Plain,
        "sdedit": SDEdit,
        "diffedit": DiffEdit,
        "blended-latent-diffusion": BlendedLatentDiffusion,
        "inversion-free": InversionFree,
        "reference-attention": ReferenceAttention,
    }
)

__all__ = [
    "METHODS",
    "BlendedLatentDiffusion",
    "DiffEdit",
    "Follower",
    "FreePromptEditing",
    "InversionFree",
    "Latents",
    "MasaCtrl",
    "Method",
    "Photoswap",
    "Plain",
    "PlugAndPlay",
    "PromptToPrompt",
    "ReferenceAttention",
    "Run",
    "SDEdit",
    "SwapAnything",
    "Update",
    "official",
]


def name_of(method: Method) -> str:
    """The name a method goes by: that in METHODS, else its class's."""
    return next((name for name, kind in METHODS.items() if type(method) is kind), type(method).__name__)
