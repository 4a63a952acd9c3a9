"""Imports are not interrupted by garbage collections, and nothing of that remains."""

import gc
import sys
from collections.abc import Iterator

import pytest

from glance.sampling.pipeline import importing


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_no_collection_runs_within_and_it_goes_on_after() -> None:
    with importing():
        within = gc.isenabled()
        with importing():
            pass
        still_within = gc.isenabled()

    assert (within, still_within, gc.isenabled()) == (False, False, True)


def test_what_was_imported_is_left_out_of_later_collections() -> None:
    before = gc.get_freeze_count()

    with importing():
        sys.modules["a module of this test"] = sys.modules[__name__]

    del sys.modules["a module of this test"]
    assert gc.get_freeze_count() > before


def test_a_block_that_imports_nothing_leaves_no_trace() -> None:
    before = gc.get_freeze_count()

    with importing():
        pass

    assert gc.get_freeze_count() == before


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ImportError), importing():
        import glance.nothing  # noqa: F401

    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
