# Tasks of the repository. `uv run just` lists them; `uv run just check` is what CI runs first.

[private]
default:
    @just --list

# Make the environment (seven gigabytes, most of it torch)
setup:
    uv sync

# Format and mend what can be mended
fmt:
    uv run ruff format .
    uv run ruff check --fix .

# Only look: format, lint, types
check:
    uv run ruff format --check .
    uv run ruff check .
    uv run mypy

# All tests: what the README's second command runs
test:
    uv run pytest

# The tests that need no torch: seconds
test-fast:
    uv run pytest -m "not torch and not train"

# Render configs/ and docs/cli.md anew; review the difference like code
goldens:
    uv run python scripts/render_configs.py
    uv run python scripts/render_docs.py

# Record the options of the installed SimpleTuner, after its pin has changed
options:
    uv run python scripts/record_options.py
