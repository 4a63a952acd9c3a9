"""Files that should hold tensors and do not: what they are and what to do, told alike by all."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes.models import make_model
from fakes.pairs import write_lora, write_run
from safetensors.numpy import save

from glance.cli._description import describe
from glance.core.errors import GlanceError, ModelNotFound
from glance.core.kinds import explain_tensors
from glance.core.phase import Phase
from glance.interop.export import open_source
from glance.interop.importing import plan_import
from glance.interop.request import ImportRequest
from glance.models.base import BaseModel
from glance.models.checkpoint import read_checkpoint
from glance.sampling.lora_pair import find_pair
from glance.sampling.request import InferRequest
from glance.training.distillation import plan_distillation
from glance.training.request import DistillRequest

FILE = Path("x.safetensors")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 306425448\n" % (
    b"4d7a" * 16
)
WHOLE = save({"transformer.a.lora_A.weight": np.ones((2, 8), np.float32)})


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"content")
    return stream.getvalue()


KINDS: dict[str, tuple[bytes, str, str]] = {
    "pointer": (POINTER, "a Git LFS pointer, which stands for a file of 306.4 MB", "git lfs pull"),
    "empty": (b"", "it is empty", "download or copy it again"),
    "web page": (
        b"\n<!DOCTYPE html>\n<html><head><title>Log in\n | Civitai</title>",
        'it is a web page, "Log in | Civitai", which a server sent',
        "`resolve` in place of `blob`",
    ),
    "latin-1 page": (b"<HTML><body>Acc\xe8s", "it is a web page which a server", "token"),
    "error": (b'{"error":"Gone."}', 'is JSON, no tensors: "{"error":"Gone."}"', "download the"),
    "text": (b"not found", 'it is text, no tensors: "not found"', "download the"),
    "XML": (b"<?xml version='1.0'?><Error>", "it is XML, no tensors", "download"),
    "torch.save": (zipped("archive/data.pkl"), "may run code when it is", "convert it"),
    "pickle": (pickle.dumps({"a": 1}), "may run code when it is opened", "convert it"),
    "zip": (zipped("cat.safetensors"), "it is a zip archive", "give the cat.safetensors"),
    "other zip": (zipped("cat.txt"), "a zip archive without a .safetensors", "again"),
    "half a zip": (zipped("cat.safetensors")[:40], "it is a damaged zip archive", "again"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(64), "it is a GGUF file", "get it as .safetensors"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), "it is a gzip archive", "unpack it"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "it is a PNG image", "download"),
    "zeros": (bytes(5000), "it is zeros where its header should be", "again"),
    "noise": (b"\xfe\xfd" * 500, "it is no safetensors file, by its first bytes", "again"),
    "cut in its tensors": (WHOLE[:-9], "it is cut short: ", "again, whole"),
    "cut in its header": (WHOLE[:50], "it is cut short within its header", "again"),
    "cut to nothing": (WHOLE[:5], "it is cut short within its header, after 5", "again"),
    "too long": (WHOLE + b"more", "it is damaged: 4 bytes longer than its", "again"),
    "bad header": (struct.pack("<Q", 9) + b"{nothing}", "header cannot be read", "again"),
}


def problem(ask: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(GlanceError) as caught:
        ask()
    first = caught.value.problems[0]
    return first.message, first.hint or ""


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_lora_is_not_is_told_alike_by_all(kind: str) -> None:
    content, message, remedy = KINDS[kind]
    FILE.write_bytes(content)
    both = {"slow_lora": str(FILE), "fast_lora": str(FILE)}

    told = problem(lambda: describe(FILE))

    assert told[0].startswith(f"{FILE}: not a whole safetensors file (")
    assert message in told[0]
    assert remedy in told[1]
    assert problem(lambda: find_pair(InferRequest(**both))) == told
    assert problem(lambda: plan_import(ImportRequest(**both))) == told
    run = write_run(Path("runs/cat"))
    FILE.rename(run.lora(Phase.FAST))
    exported = problem(lambda: open_source(run.path))
    assert message in exported[0]
    assert remedy in exported[1]
    run.lora(Phase.FAST).rename(FILE)
    teacher = DistillRequest(teacher_loras=(str(FILE),), device="cpu")
    assert problem(lambda: plan_distillation(teacher)) == told


@pytest.mark.parametrize("kind", ["pointer", "empty", "torch.save", "cut in its header"])
def test_a_model_is_told_of_in_the_same_words(kind: str) -> None:
    content, message, remedy = KINDS[kind]
    FILE.write_bytes(content)
    (make_model(Path("flux")) / "vae/model.safetensors").write_bytes(content)

    file = problem(lambda: read_checkpoint(FILE))
    folder = problem(lambda: BaseModel.resolve("flux", family="flux"))

    assert file[0].startswith(f"model {FILE} cannot be read: it is ")
    assert folder[0].startswith("model flux: vae/model.safetensors ")
    for told in (file, folder):
        assert message.removeprefix("it ") in told[0]
        assert remedy in told[1]


def test_pickles_in_a_model_are_left_to_transformers() -> None:
    folder = make_model(Path("flux"))
    (folder / "vae/pytorch_model.bin").write_bytes(zipped("archive/data.pkl"))

    assert BaseModel.resolve("flux").location == "flux"
    (folder / "vae/pytorch_model.bin").write_bytes(POINTER)
    with pytest.raises(ModelNotFound, match="is a Git LFS pointer"):
        BaseModel.resolve("flux", family="flux")


def test_a_missing_shard_is_named() -> None:
    folder = make_model(Path("flux"))
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    (folder / "transformer/m.safetensors.index.json").write_text(json.dumps(index))
    write_lora(folder / "transformer/m-1.safetensors")

    with pytest.raises(ModelNotFound, match=r"^model flux lacks transformer/m-2\.safetensors$"):
        BaseModel.resolve("flux", family="flux")


def test_an_export_refuses_a_strength_that_others_would_miss() -> None:
    run = write_run(Path("runs/cat"))
    write_lora(run.lora(Phase.FAST), {"lora_alpha": "8"})

    message, remedy = problem(lambda: open_source(run.path))

    assert "was not finished by glance: its strength of 4 is not multiplied in" in message
    assert "glance import" in remedy


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.ckpt", "x.bin"])
@pytest.mark.parametrize("content", [b"I0\n.", b"\x80\x04.", b"\x8a\x0a\x6c\xfc" * 8])
def test_what_a_pickle_is_called_says_it_where_its_bytes_do_not(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)

    told = problem(lambda: describe(Path(name)))

    assert "may run code when it is opened, so glance opens none" in told[0]
    assert told[1] == "convert it to .safetensors, or get it as that"
    write_lora(FILE).rename(name)
    assert explain_tensors(Path(name)) is None, "safetensors by another name"


def test_nothing_in_it_moves_the_terminal() -> None:
    FILE.write_bytes("\x0c\u202eerror \u200b\t\r\n<title>\u2066</title>".encode())

    message, _ = problem(lambda: describe(FILE))

    assert message.isprintable()


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(kind: str) -> None:
    os.mkfifo(FILE) if kind == "pipe" else FILE.mkdir()

    found = explain_tensors(FILE)
    message, _ = problem(lambda: read_checkpoint(FILE))

    assert found is not None
    assert found[0] == {"pipe": "no regular file", "folder": "a folder"}[kind]
    assert found[0] in message
