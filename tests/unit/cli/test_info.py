"""`glance info`: the streams; what it says of whom is in tests/unit/interop/test_info.py."""

from pathlib import Path

from fakes.commands import Glance, files
from fakes.pairs import glance_header, write_lora, write_run

from glance.core.phase import Phase
from glance.models.lora.file import hash_data, hash_file, read_header

FILE = Path("x.safetensors")


def test_a_lora_is_shown_whole(invoke: Glance) -> None:
    write_lora(FILE, glance_header(Phase.SLOW, **{"modelspec.title": "A cat", "format": "pt"}))

    done = invoke("info", FILE)

    sha256 = hash_file(FILE)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "x.safetensors: LoRA of 1 layer, rank 2, F32, 32 parameters, 568 bytes",
        f"  SHA-256    {sha256}",
        f"  AutoV2     {sha256[:10]}",
        f"  AutoV3     {hash_data(read_header(FILE))[:12]} (tensors alone)",
        "  keys       diffusers",
        "  scale      1 (glance folded 4.0 into lora_B)",
        "  family     flux",
        "  phase      slow",
        "  timesteps  1000, 979.192, 957.516, 934.917, 911.335",
        "ModelSpec:",
        "  title  A cat",
        "other metadata:",
        "  format  pt",
    ]


def test_problems_leave_exit_code_0_and_json_escapes_what_a_terminal_would_obey(
    invoke: Glance,
) -> None:
    write_lora(FILE, {"a": "\x1b[2J"}, fill=0.0)

    done, as_json = invoke("info", FILE), invoke("info", FILE, "--json")

    assert done.code == as_json.code == 0
    assert "  problem: every lora_B (up) is zero: it changes nothing" in done.out
    assert as_json.document["metadata"] == {"a": "\x1b[2J"}
    assert "\x1b" not in as_json.out


def test_a_run_ends_with_what_to_do_and_looking_changes_nothing(invoke: Glance) -> None:
    write_run(Path("runs/a b"))
    before = files(Path("runs"))

    done = invoke("info", "runs/a b")

    assert done.code == 0
    assert done.out.startswith("runs/a b: run, slow done, fast done\n")
    assert "next: glance infer --run 'runs/a b' --prompt \"...\"\n" in done.out
    assert files(Path("runs")) == before
