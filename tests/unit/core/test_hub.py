"""May a model be had: asked of a Hub that is played here."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from fakes.hub import FakeHub

from glance.core.hub import split_hub_file

SMALL_FLUX = Path(__file__).parents[3] / "glance" / "assets" / "small-flux"


def python(script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: huggingface_hub reads its environment once, at import."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "0", **environment},
    )


@contextmanager
def answering(status: int, error_code: str = "") -> Iterator[str]:
    """A Hub of one answer, on loopback; `huggingface_hub` talks to it for real."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if error_code:
                self.send_header("X-Error-Code", error_code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


NOBODY = "http://127.0.0.1:9"


def ask_for_access(endpoint: str, model: str = "some/model", **more: str) -> tuple[str, str]:
    script = f"from glance.core.hub import check_access; print(check_access({model!r}))"
    done = python(script, HF_ENDPOINT=endpoint, **more)
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("status", "error_code", "message"),
    [
        (401, "GatedRepo", "some/model is gated, and there is no token with a right to it"),
        (404, "RepoNotFound", "the Hub has no model some/model"),
        (200, "", None),
    ],
)
def test_a_model_that_may_not_be_fetched_is_refused_early(
    status: int, error_code: str, message: str | None
) -> None:
    with answering(status, error_code) as hub:
        said, refused = ask_for_access(hub)

    assert said == ("" if message else "None\n")
    assert (message or "") in refused


def test_what_nobody_can_say_is_a_warning() -> None:
    assert "the Hub does not answer" in ask_for_access(NOBODY)[0]
    assert "HF_HUB_OFFLINE forbids" in ask_for_access(NOBODY, HF_HUB_OFFLINE="1")[0]
    assert ask_for_access(NOBODY, "acme/tiny")[0] == "None\n", "it is in the cache"


class TestFetching:
    @pytest.fixture
    def hub(self, tmp_path: Path) -> Iterator[FakeHub]:
        folder = tmp_path / "remote"
        for name in (
            *("transformer/config.json", "transformer/w.safetensors", "transformer/w.bin"),
            *("transformer/w.fp16.safetensors", "tokenizer/vocab.json", "vae/only.bin"),
            *("vae/config.json", "transformer/w-2.safetensors"),
            *("README.md", "flux1-dev.safetensors", "image.png", "other/file.json"),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(name.encode() * 5000)
        index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "X"]}
        index |= {"tokenizer": ["transformers", "Y"], "vae": ["diffusers", "Z"], "odd": [None] * 2}
        (folder / "model_index.json").write_text(json.dumps(index))
        shards = {"weight_map": {"a": "w.safetensors", "b": "w-2.safetensors"}}
        (folder / "transformer/w.safetensors.index.json").write_text(json.dumps(shards))
        served = FakeHub("acme/big", folder)
        yield served
        served.close()

    NEEDED: ClassVar[set[str]] = {
        *("model_index.json", "transformer/config.json", "transformer/w.safetensors"),
        *("tokenizer/vocab.json", "vae/only.bin", "vae/config.json"),
        *("transformer/w-2.safetensors", "transformer/w.safetensors.index.json"),
    }

    def fetch(
        self, hub: FakeHub, home: Path, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        script = (
            "from glance.core.hub import fetch_model; seen = []\n"
            "done = fetch_model('acme/big', seen.append)\n"
            "print(done, [(one.bytes, one.total_bytes) for one in seen[-1:]])"
        )
        return python(script, **{"HF_HOME": str(home), "HF_ENDPOINT": hub.url, **environment})

    def test_only_what_is_needed_is_fetched_and_told(self, hub: FakeHub, tmp_path: Path) -> None:
        done = self.fetch(hub, tmp_path / "home")

        assert hub.fetched() == self.NEEDED, done.stderr
        size = 5000 * sum(len(name) for name in self.NEEDED if "index" not in name)
        told = done.stdout.removeprefix("True [(").removesuffix(")]\n").split(", ")
        assert told[0] == told[1], done.stdout
        assert size < int(told[1]) < size + 1000
        assert done.stderr == ""

    def test_only_what_is_missing_is_fetched(self, hub: FakeHub, tmp_path: Path) -> None:
        self.fetch(hub, tmp_path / "home")
        hub.requests.clear()
        assert self.fetch(hub, tmp_path / "home").stdout.startswith("True")
        assert hub.requests == [], "what is whole is taken as it is"

        (snapshot,) = (tmp_path / "home/hub/models--acme--big/snapshots").iterdir()
        for missing in ("transformer/w-2.safetensors", "vae/only.bin", "tokenizer"):
            gone = snapshot / missing
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
            assert self.fetch(hub, tmp_path / "home").stdout.startswith("True")
            assert gone.exists()

    def test_a_tokenizer_is_loaded_offline(self, tmp_path: Path) -> None:
        """As SimpleTuner loads those of Z-Image, Chroma, Krea 2 and HiDream."""
        hub = FakeHub("acme/small", SMALL_FLUX)
        homes = [str(tmp_path / name) for name in ("fetched", "fetched-by-somebody-else-before")]
        download = "import huggingface_hub as h; h.snapshot_download('acme/small')"
        python(download, HF_HOME=homes[1], HF_ENDPOINT=hub.url)
        for home in homes:
            fetch = "from glance.core.hub import fetch_model; fetch_model('acme/small', print)"
            python(fetch, HF_HOME=home, HF_ENDPOINT=hub.url)
        hub.close()

        load = "t.AutoTokenizer.from_pretrained('acme/small', subfolder='tokenizer_2', cache_dir="
        loads = "; ".join(f"{load}{home + '/hub'!r})" for home in homes)
        done = python(f"import transformers as t; {loads}", HF_HUB_OFFLINE="1")

        assert done.returncode == 0, done.stderr

    def test_nobody_to_ask_is_no_failure(self, hub: FakeHub, tmp_path: Path) -> None:
        assert self.fetch(hub, tmp_path / "home", HF_HUB_OFFLINE="1").stdout == "False []\n"
        assert hub.requests == []
        assert self.fetch(hub, tmp_path / "home", HF_ENDPOINT=NOBODY).stdout == "False []\n"

    def test_what_broke_off_is_said_and_goes_on(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.dies_after = 120_000

        broken = self.fetch(hub, tmp_path / "home")
        hub.dies_after, hub.is_dead = None, False
        whole = self.fetch(hub, tmp_path / "home")

        assert broken.returncode == 1
        assert "SetupError: fetching acme/big broke off" in broken.stderr
        assert whole.stdout.startswith("True"), whole.stderr
        weights = re.compile("GET .*/transformer/w.*safetensors$")
        tried = [request for request in hub.requests if weights.match(request)]
        assert len(tried) >= 3, "what broke off is begun again, how often is the library's"


class TestOneFile:
    """`owner/repo:file`: a LoRA on the Hub."""

    @pytest.fixture
    def hub(self, tmp_path: Path) -> Iterator[FakeHub]:
        folder = tmp_path / "served"
        folder.mkdir()
        (folder / "slow.safetensors").write_bytes(b"a lora")
        served = FakeHub("acme/pair", folder)
        yield served
        served.close()

    def find(self, hub: FakeHub, home: Path, reference: str, **more: str) -> tuple[str, str]:
        script = (
            "import sys; from glance.core.hub import find_hub_file\n"
            "from glance.core.errors import *\n"
            "try:\n"
            "    found = find_hub_file(sys.argv[1], default='none.safetensors')\n"
            "    print(found.read_text() if found else None)\n"
            "except SetupError as exc:\n    print(exc, file=sys.stderr)\n"
        )
        own = {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, **more}
        done = python(script, reference, **own)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr.strip()

    def test_it_is_fetched_once_and_is_there_offline(self, hub: FakeHub, tmp_path: Path) -> None:
        reference = "acme/pair:slow.safetensors"

        assert self.find(hub, tmp_path / "home", reference)[0] == "a lora"
        assert self.find(hub, tmp_path / "home", reference, HF_HUB_OFFLINE="1")[0] == "a lora"

    @pytest.mark.parametrize(
        ("reference", "reason"),
        [
            ("acme/pair:fast.safetensors", "has no file fast.safetensors"),
            ("acme/pair", "has no file none.safetensors"),
            ("acme/nobody:x.safetensors", "the Hub has no acme/nobody, or it is private"),
        ],
    )
    def test_what_the_hub_lacks_is_said(
        self, reference: str, reason: str, hub: FakeHub, tmp_path: Path
    ) -> None:
        assert reason in self.find(hub, tmp_path / "home", reference)[1]


@pytest.mark.parametrize("reference", ["x.safetensors", "loras/x.safetensors", "a/b/c", "./a/b"])
def test_a_path_is_no_name_on_the_hub(reference: str) -> None:
    assert split_hub_file(reference) is None
