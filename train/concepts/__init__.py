"""Concepts: what was learnt of a subject, as changes to a model; their files, and putting them into their base."""

from train.concepts.apply import apply_concept, apply_in_place
from train.concepts.changes import Added, Change, LowRank, Replaced, TokenRows, changed
from train.concepts.concept import Concept, load_concept, replaced, save_concept
from train.concepts.delta_file import save_delta
from train.concepts.embeds_file import save_embeds
from train.concepts.lora_file import save_lora
from train.concepts.merge import merge_custom_diffusion
from train.concepts.open import open_concept

__all__ = [
    "Added",
    "Change",
    "Concept",
    "LowRank",
    "Replaced",
    "TokenRows",
    "apply_concept",
    "apply_in_place",
    "changed",
    "load_concept",
    "merge_custom_diffusion",
    "open_concept",
    "replaced",
    "save_concept",
    "save_delta",
    "save_embeds",
    "save_lora",
]
