"""Who is let in, how much may be sent, and which paths pages touch."""

import json
import random
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from glance.core.errors import InputError
from glance.web.app import Site
from glance.web.forms import TRAIN
from glance.web.guard import MOST_UPLOADED, Door, Workspace, is_loopback

HERE = "http://127.0.0.1:7870"
SECRET = "what nobody may read"


def client(door: Door | None = None, base: str = HERE) -> TestClient:
    site = Site(Workspace(Path.cwd().resolve()), {})
    return TestClient(site.app(door or Door("127.0.0.1")), base_url=base, follow_redirects=False)


@pytest.fixture(autouse=True)
def secret() -> Path:
    """A file beside the working folder, and a link to it inside."""
    outside = Path.cwd().parent / "secret.png"
    outside.write_text(SECRET)
    Path("link.png").symlink_to(outside)
    Path(".hidden.png").write_text(SECRET)
    Path("notes.txt").write_text(SECRET)
    return outside


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:7870", "LOCALHOST"])
def test_this_machine_is_let_in_by_any_of_its_names(host: str) -> None:
    assert client().get("/new", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "a@127.0.0.1", "[", "192.168.0.7", "x:y"]
)
def test_a_foreign_host_is_refused(host: str) -> None:
    assert client().get("/new", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_another_sites_script_is_refused(headers: dict[str, str]) -> None:
    assert client().post("/api/stop", json={"id": "x"}, headers=headers).status_code == 403


def test_a_link_from_another_site_opens_a_page_and_nothing_else() -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}

    assert client().get("/new", headers=headers).status_code == 200
    assert client().post("/api/stop", json={"id": "x"}, headers=headers).status_code == 403


def test_beyond_this_machine_a_token_is_asked_for_and_kept_in_a_cookie() -> None:
    there = client(Door("0.0.0.0", "t0ken"), "http://192.168.0.7:7870")

    assert there.get("/new").status_code == 401
    assert there.get("/static/glance.css").status_code == 401
    assert there.get("/new?token=wrong").status_code == 401
    led = there.get("/new?method=distill&token=t0ken")
    assert (led.status_code, led.headers["location"]) == (303, "/new?method=distill")
    assert "HttpOnly" in led.headers["set-cookie"]
    assert "SameSite=strict" in led.headers["set-cookie"]
    assert there.get("/new").status_code == 200
    bare = client(Door("0.0.0.0", "t0ken"), "http://192.168.0.7:7870")
    assert bare.get("/new", headers={"authorization": "Bearer t0ken"}).status_code == 200


def test_with_a_token_a_name_that_was_pointed_here_is_still_refused() -> None:
    """A browser would send the cookie of the address to it."""
    there = client(Door("0.0.0.0", "t0ken"), "http://evil.example:7870")

    assert there.get("/new", headers={"authorization": "Bearer t0ken"}).status_code == 421


def test_which_hosts_are_this_machine_alone() -> None:
    alone = [
        one
        for one in ("127.0.0.1", "127.1.2.3", "::1", "localhost", "0.0.0.0", "::", "pc")
        if is_loopback(one)
    ]

    assert alone == ["127.0.0.1", "127.1.2.3", "::1", "localhost"]


def test_a_large_upload_is_refused_before_it_is_read_and_while_it_is() -> None:
    length = {"content-length": str(2 << 30)}

    assert client().post("/api/uploads", content=b"", headers=length).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(MOST_UPLOADED // (1 << 20) + 2):
            yield bytes(1 << 20)

    assert client().post("/api/uploads", content=endless()).status_code == 413
    assert client().post("/api/plan", content=bytes(2 << 20)).status_code == 413
    assert not Path(".glance/uploads").exists()


def test_pages_tell_the_browser_to_run_nothing_of_others() -> None:
    told = client().get("/new").headers

    assert "script-src 'self'" in told["content-security-policy"]
    assert "unsafe" not in told["content-security-policy"]
    assert told["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "link.png",
        ".hidden.png",
        "notes.txt",
        "/etc/passwd",
        "runs/../../secret.png",
        "a\0b.png",
        ".glance/jobs/x/job.json",
        "",
        ".",
    ],
)
@pytest.mark.parametrize("route", ["/file", "/thumbnail"])
def test_no_file_is_shown_that_is_not_a_pages(route: str, path: str) -> None:
    answer = client().get(route, params={"path": path})

    assert answer.status_code == 404
    assert SECRET not in answer.text


OUTSIDE = ("/etc/passwd", "../x.png", "~/x", "~root", "link.png", "a/../../b", "\0")


@pytest.mark.parametrize("text", OUTSIDE)
@pytest.mark.parametrize(
    "key", ["image", "model", "run", "source-image", "pipeline", "schedule", "teacher-lora"]
)
def test_no_field_of_a_form_leads_out_of_the_folder(key: str, text: str) -> None:
    form = TRAIN if key in TRAIN.fields else None
    command = "train" if form else "distill"
    document = {key: [text] if key in ("image", "teacher-lora") else text}

    answer = client().post("/api/plan", json={"command": command, "document": document})

    assert answer.status_code == 422
    assert any(one["message"].startswith(f"{key} ") for one in answer.json()["problems"])


@pytest.mark.parametrize(
    ("command", "key"),
    [
        *(("train", key) for key in ("source_image", "preview_prompt", "lr", "SET", "gpu_ids")),
        *(
            ("infer", key)
            for key in ("from_image", "prompt_file", "init_latents", "slow_lora", "p")
        ),
    ],
)
def test_a_field_has_one_name(command: str, key: str) -> None:
    """By another, which the command line knows, its path would not be looked at."""
    document = {"command": command, "document": {key: "/etc/passwd"}}

    (problem,) = client().post("/api/plan", json=document).json()["problems"]

    assert problem["message"] == f"{key} is not asked by a page"


def test_no_run_is_made_where_nobody_would_look() -> None:
    with pytest.raises(InputError):
        Workspace(Path.cwd().resolve()).check(TRAIN.fields, {"run": "runs/.git/hooks"})


@pytest.mark.parametrize(
    "text", ["owner/repo:../../x", "style.safetensors:/etc/x", "x.safetensors:0.5,../y", "a=~/b"]
)
def test_a_path_behind_another_is_looked_at_too(text: str) -> None:
    workspace = Workspace(Path.cwd().resolve())

    with pytest.raises(InputError):
        workspace.check(TRAIN.fields, {"model": text})


def test_a_folder_that_may_be_read_may_not_be_written(tmp_path: Path) -> None:
    workspace = Workspace(Path.cwd().resolve(), (tmp_path / "models",))

    workspace.check(TRAIN.fields, {"model": str(tmp_path / "models/flux")})
    with pytest.raises(InputError):
        workspace.check(TRAIN.fields, {"run": str(tmp_path / "models/run")})


def test_prose_may_say_anything() -> None:
    said = {"caption": "../a ~ /etc/passwd", "preview-prompt": ["~/x"]}

    Workspace(Path.cwd().resolve()).check(TRAIN.fields, said)


def _nasty(rng: random.Random) -> tuple[str, str, dict[str, Any]]:
    """A request that nobody should send: method, address, and what goes along."""
    text = rng.choice(
        [
            "<script>alert(1)</script>",
            "\"'><img src=x onerror=alert(1)>",
            "../../etc/passwd",
            "\ud800",
            "",
            "\0",
            "A" * 5000,
            "{{7*7}}",
            "%2e%2e%2f",
            "-1",
            "1e999",
            "NaN",
            "[]",
            "--run",
            "$(id)",
        ]
    )
    value = rng.choice([text, [text], {text: text}, None, 1e308, True, [[text]], -1])
    key = rng.choice(
        ["image", "caption", "model", "run", "steps", "schedule", "set", "trust", text, "resume"]
    )
    command = rng.choice(["train", "distill", "infer", "compare", "rm", "", text])
    path = rng.choice(
        [
            "/api/plan",
            "/api/start",
            "/api/stop",
            "/api/continue",
            "/api/remove",
            "/api/uploads",
            "/api/records",
        ]
    )
    body = rng.choice(
        [
            {"content": json.dumps({"command": command, "document": {key: value}}).encode()},
            {"content": json.dumps({"id": value, "run": value, "name": value}).encode()},
            {"content": b'{"command": "train", "document": ' + b"[" * 20_000},
            {"content": bytes(rng.randrange(256) for _ in range(200))},
            {"content": b'{"command":'},
            {"content": b"null"},
        ]
    )
    reads = [
        ("/run", {"path": text}), ("/sample", {"run": text}), ("/compare", {"run": text}),
        ("/file", {"path": text}), ("/thumbnail", {"path": text}),
        ("/export", {"run": text, "kind": text}),
        ("/schedule.svg", {"slow": text, "fast": text, "model": text}), ("/api/job", {"id": text}),
        ("/api/run", {"path": text}), ("/api/images", {"run": text}), ("/new", {"method": text}),
        ("/static/../app.py", {}), ("/static/%2e%2e/app.py", {}),
    ]  # fmt: skip
    if rng.random() < 0.4:
        address, query = rng.choice(reads)
        query = {name: one.encode("utf-8", "replace").decode() for name, one in query.items()}
        return "GET", address, {"params": query}
    return "POST", path, {**body, "params": {"name": text.encode("utf-8", "replace").decode()}}


def test_two_hundred_bad_requests_end_in_a_word_each(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rng, there = random.Random(7), client()
    before = {path for path in Path.cwd().parent.rglob("*") if ".glance" not in path.parts}

    for _ in range(200):
        method, address, more = _nasty(rng)
        answer = there.request(method, address, **more)
        assert answer.status_code < 500, (method, address, more, answer.text[:500])
        assert "<script>alert" not in answer.text or answer.headers["content-type"].startswith(
            "application/json"
        ), (address, more)
        assert (
            "onerror=alert" not in answer.text.replace("&lt;img", "")
            or "json" in (answer.headers["content-type"])
        )
        assert SECRET not in answer.text

    assert not caplog.records
    after = {path for path in Path.cwd().parent.rglob("*") if ".glance" not in path.parts}
    assert after == before


def test_a_zip_is_no_image_whatever_it_is_called_and_is_not_kept() -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../evil.txt", "x")

    answer = client().post("/api/uploads", params={"name": "cat.png"}, content=packed.getvalue())

    assert answer.status_code == 422
    assert "cat.png" in answer.json()["problems"][0]["message"]
    assert not list(Path(".glance").rglob("*.png"))


@pytest.mark.parametrize(
    "name", ["../../x.png", "..\\..\\x.png", "/etc/x.png", "<b>.png", ".png", "x.py"]
)
def test_an_upload_lands_where_uploads_do_whatever_its_name(name: str) -> None:
    image = BytesIO()
    from PIL import Image

    Image.linear_gradient("L").convert("RGB").save(image, "PNG")

    answer = client().post("/api/uploads", params={"name": name}, content=image.getvalue())

    place = Path(answer.json()["path"])
    assert place.parts[:2] == (".glance", "uploads")
    assert place.read_bytes() == image.getvalue()
    assert Path.cwd().resolve() in place.resolve().parents
    assert client().get("/thumbnail", params={"path": place.as_posix()}).status_code in (200, 404)
