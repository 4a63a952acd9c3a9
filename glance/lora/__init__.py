"""LoRA files: read, verify, finalise, and examine those of others. Needs numpy, no torch."""

from glance.lora.examine import LoraFacts, drop_text, examine_lora, trained_schedule
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
from glance.lora.header import Entry, Header, hash_data, read_header, read_tensor, rewrite_metadata
from glance.lora.locate import find_local, locate_lora
from glance.lora.modelspec import (
    SPEC,
    Origin,
    complete_metadata,
    copy_completed,
    describe_origin,
    find_origin,
    lora_name,
    name_pair,
    pair_name,
    record_lora,
)
from glance.lora.pairs import (
    PairKeys,
    adapter_config,
    name_some,
    pair_problem,
    read_scaling,
    sort_keys,
)
from glance.lora.strength import (
    TRAINED_CONFIG,
    Strength,
    find_trained_config,
    read_file_strength,
    read_strength,
)

__all__ = [
    "ADAPTER_METADATA",
    "PREFIX",
    "SPEC",
    "TRAINED_CONFIG",
    "Entry",
    "Header",
    "Lora",
    "LoraFacts",
    "Origin",
    "PairKeys",
    "Strength",
    "Tensor",
    "adapter_config",
    "complete_metadata",
    "copy_completed",
    "describe_origin",
    "drop_text",
    "examine_lora",
    "finalise_lora",
    "find_local",
    "find_origin",
    "find_trained_config",
    "hash_data",
    "hash_file",
    "is_final",
    "locate_lora",
    "lora_name",
    "name_pair",
    "name_some",
    "pair_name",
    "pair_problem",
    "read_file_strength",
    "read_header",
    "read_lora",
    "read_metadata",
    "read_scaling",
    "read_strength",
    "read_tensor",
    "record_lora",
    "rewrite_metadata",
    "sort_keys",
    "trained_schedule",
    "verify_lora",
]
