"""The island of torch and diffusers: the only package that imports them.

Import it inside the function that needs it, so that commands which load no model start at once.
"""
