"""LoRA files: read, verify, finalise, and examine those of others. Needs numpy, no torch."""

from glance.lora.examine import LoraFacts, examine_lora, trained_schedule
from glance.lora.file import (
    ADAPTER_METADATA,
    PREFIX,
    Lora,
    Tensor,
    hash_file,
    read_lora,
    read_metadata,
)
from glance.lora.final import finalise_lora, is_final, verify_lora
from glance.lora.pairs import adapter_config, name_some, pair_problem, read_scaling, sort_keys

__all__ = [
    "ADAPTER_METADATA",
    "PREFIX",
    "Lora",
    "LoraFacts",
    "Tensor",
    "adapter_config",
    "examine_lora",
    "finalise_lora",
    "hash_file",
    "is_final",
    "name_some",
    "pair_problem",
    "read_lora",
    "read_metadata",
    "read_scaling",
    "sort_keys",
    "trained_schedule",
    "verify_lora",
]
