"""What is said of a missing package must work where glance was installed."""

import sys
from pathlib import Path

import pytest

from glance.core import install
from glance.core.install import how_to_install


def test_in_a_clone_uv_syncs_it() -> None:
    assert how_to_install("torch") == "in glance's clone: uv sync"
    assert how_to_install("bitsandbytes") == "in glance's clone: uv sync --extra cuda"
    assert how_to_install("ray") == "in glance's clone: uv sync --extra ray"
    assert how_to_install("s3fs") == "in glance's clone: uv sync --extra s3"


@pytest.mark.parametrize(
    ("has_pip", "package", "command"),
    [
        (True, "torch", "'/my tools/python' -m pip install torch==2.13.0"),
        (False, "torch", "uv pip install --python '/my tools/python' torch==2.13.0"),
        (True, "simpletuner", "'/my tools/python' -m pip install 'simpletuner[cpu]==4.10.1'"),
        (True, "bitsandbytes", "'/my tools/python' -m pip install 'bitsandbytes>=0.48'"),
        (True, "gcsfs", "'/my tools/python' -m pip install gcsfs"),
    ],
)
def test_elsewhere_its_environment_gets_the_version_that_was_proven(
    has_pip: bool, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_CLONE", Path("site-packages/pyproject.toml"))
    monkeypatch.setattr(install, "find_spec", lambda _: has_pip or None)
    monkeypatch.setattr(sys, "executable", "/my tools/python")

    assert how_to_install(package) == command
