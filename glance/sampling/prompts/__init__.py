"""Prompts: the user's own, in files, and those that ship with the package.

Names of `files` are also names of this package; `shipped` is imported where it is needed.
"""
