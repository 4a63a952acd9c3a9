"""Prompts: the user's own, in files, and those that ship with the package.

Names of `files` are also names of this package; `shipped` is imported where it is needed.
"""

from glance.prompts.entries import MAX_BYTES
from glance.prompts.files import PromptLine, find_faults, read_prompts

__all__ = ["MAX_BYTES", "PromptLine", "find_faults", "read_prompts"]
