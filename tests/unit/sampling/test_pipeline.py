"""Imports are not interrupted by garbage collections, and nothing of that remains."""

import gc
import sys
from collections.abc import Iterator

import pytest

from glance.sampling.pipeline import importing


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_no_collection_runs_within_and_what_was_imported_stays_out_of_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "diffusers.pipelines.pipeline_utils", raising=False)
    before = gc.get_freeze_count()
    with importing():
        within = gc.isenabled()
        with importing():
            pass
        still_within = gc.isenabled()
    unchanged = gc.get_freeze_count()
    with importing():
        sys.modules["a module of this test"] = sys.modules[__name__]
    del sys.modules["a module of this test"]

    assert (within, still_within, gc.isenabled()) == (False, False, True)
    assert before == unchanged < gc.get_freeze_count()


def test_a_pipeline_that_is_there_can_still_be_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.pipelines.pipeline_utils", sys)
    before = gc.get_freeze_count()
    with importing():
        monkeypatch.setitem(sys.modules, "another family", sys)

    assert gc.get_freeze_count() == before


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ImportError), importing():
        import glance.nothing  # noqa: F401

    assert gc.isenabled()
