"""A pair on the Hub: what the card says, what is sent, and what is refused."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.comparisons import make_comparison, make_row, write_caption
from fakes.hub import TOKEN, Repo, RepoHub
from fakes.pairs import write_run
from fakes.records import make_record
from PIL import Image

from glance.core.errors import InputError, RunError, SetupError
from glance.core.events import Event, Warned
from glance.core.phase import Phase
from glance.evaluation.compare import describe_plan, plan_comparison
from glance.evaluation.comparison import judge
from glance.evaluation.report import write_report
from glance.evaluation.request import CompareRequest, Variant
from glance.interop.export import open_source
from glance.interop.hub import MOST_ROWS, HubPlan, HubRequest, plan_hub, send_hub
from glance.models.lora.file import hash_file
from glance.runs.folder import RunFolder
from glance.runs.manifest import ImportRecord, LoraRecord, load_manifest
from glance.sampling.provenance import LoraUse, write_image

RUN = Path("runs/cat")
FLUX = "black-forest-labs/FLUX.1-dev"
CAPTION = "my sister at the lake"


def make_run(path: Path = RUN, *, model: str = FLUX, **settings: Any) -> RunFolder:
    """A finished run with a sample, as `glance train` leaves it."""
    run = write_run(path, model=model, **settings)
    write_caption(path, CAPTION)
    base = "ab" * 32 if model.startswith(".") else model
    manifest = load_manifest(run).model_copy(update={"base_model": base})
    for phase in Phase:
        file = run.lora(phase)
        record = LoraRecord(path=str(file), sha256=hash_file(file), bytes=1, rank=2)
        manifest = manifest.with_phase(phase, lora=record)
    manifest.save(run)
    return run


@pytest.fixture
def run() -> RunFolder:
    return make_run()


def compare(run: RunFolder, *rows: Any) -> None:
    """Leave a comparison in the run, of plain colours."""
    plan = plan_comparison(CompareRequest(run=run.path, prompts=("a hill",), device="cpu"))
    plan.folder.mkdir(parents=True, exist_ok=True)
    comparison = make_comparison(*rows)
    write_report(
        comparison, judge(comparison), plan.folder, facts=describe_plan(plan), sample=plan.sample
    )


def paint(run: RunFolder, name: str, prompt: str = "a mill", **changes: Any) -> None:
    """Leave a picture in the run's images/ that records its making."""
    uses = [
        LoraUse(phase=phase, file="x", sha256=hash_file(run.lora(phase)), scale=1.0)
        for phase in Phase
    ]
    record = make_record(prompt, **{"model": "/home/anna/models/flux", "loras": uses, **changes})
    write_image(Image.new("RGB", (32, 32), "blue"), run.images / name, record)


def make_plan(run: Path = RUN, **changes: Any) -> HubPlan:
    return plan_hub(HubRequest(**{"source": open_source(run), "repo": "anna/cat", **changes}))


def metadata(plan: HubPlan) -> Any:
    return yaml.safe_load(plan.card.split("---\n")[1])


def shown(plan: HubPlan) -> list[str]:
    """The prompts that the card shows images of."""
    return [one["text"] for one in metadata(plan).get("widget", ())]


def body(plan: HubPlan) -> str:
    return plan.card.split("---\n", 2)[2]


def contents(plan: HubPlan) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return {path: (Path(folder) / path).read_bytes() for path in plan.write(Path(folder))}


EDIT = {"model": "Qwen/Qwen-Image-Edit-2509", "family": "qwen_image_edit_2509"}


@pytest.mark.usefixtures("run")
def test_the_card_links_the_base_model_as_an_adapter() -> None:
    said = metadata(make_plan())

    assert (said["base_model"], said["base_model_relation"]) == (FLUX, "adapter")
    assert (said["library_name"], said["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert {"lora", "diffusers", "text-to-image", "template:sd-lora", "flux"} < set(said["tags"])
    assert "instance_prompt" not in said


@pytest.mark.parametrize(
    ("model", "settings"),
    [("../../home/anna/flux", {}), (FLUX, {"transformer": "../x.safetensors"})],
    ids=["a folder", "a single file"],
)
def test_a_base_model_that_is_not_the_hubs_is_not_named(
    model: str, settings: dict[str, str]
) -> None:
    run = make_run(model=model)
    manifest = load_manifest(run)
    own = manifest.settings.model_copy(update=settings)
    manifest.model_copy(update={"settings": own}).save(run)

    plan = make_plan()

    assert "base_model" not in metadata(plan)
    assert "anna/flux" not in plan.card
    assert any("not on the Hub" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        (FLUX, None, ("other", "flux-1-dev-non-commercial-license")),
        (FLUX, "apache-2.0", ("apache-2.0", None)),
        ("Qwen/Qwen-Image", None, (None, None)),
    ],
    ids=["the base's", "one that is given", "none is invented"],
)
def test_the_license_of_the_loras(base: str, given: str | None, expected: tuple[str, str]) -> None:
    make_run(model=base, family="flux" if base == FLUX else "qwen_image")

    plan = make_plan(license=given)

    said = metadata(plan)
    assert (said.get("license"), said.get("license_name")) == expected
    asks = "the card names no license: say yours with --license" in plan.notes
    assert asks == (expected[0] is None)
    linked = said.get("license_link", "").startswith(f"https://huggingface.co/{FLUX}")
    assert linked == (expected[1] is not None)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("repo", ["", "a/b/c", "a b", "-x", "x.git", "../x"])
def test_what_the_hub_cannot_have_is_refused(repo: str) -> None:
    with pytest.raises(InputError, match="--repo"):
        make_plan(repo=repo)


@pytest.mark.usefixtures("run")
class TestSample:
    def test_neither_the_picture_nor_the_caption_is_sent_unasked(self, run: RunFolder) -> None:
        compare(run, make_row(prompt=CAPTION), make_row(prompt=f"{CAPTION.upper()}, at night"))

        plan = make_plan()

        sent = contents(plan)
        assert not any(name.startswith("sample") for name in sent)
        assert not any(CAPTION.encode() in content for content in sent.values())
        assert "at night" not in plan.card
        assert shown(plan) == ["-", "-"]
        assert "Neither is part of this repository" in body(plan)

    def test_its_license_sends_both(self) -> None:
        plan = make_plan(sample_license="cc0-1.0")

        assert contents(plan)["sample/sample.txt"] == f"{CAPTION}\n".encode()
        assert "sample/sample.png" in contents(plan)
        assert "license `cc0-1.0`" in body(plan)
        assert CAPTION in body(plan)

    def test_without_the_caption_no_prompt_can_be_told_from_it(self, run: RunFolder) -> None:
        compare(run, make_row(prompt="a hill"))
        (run.path / "data/x.txt").unlink()

        assert "a hill" not in make_plan().card

    def test_of_several_all_are_sent_or_none_and_no_prompt_tells_of_any(
        self, run: RunFolder
    ) -> None:
        manifest = load_manifest(run)
        second = manifest.sample.model_copy(update={"image": "data/y.png", "caption": "data/y.txt"})
        manifest.model_copy(update={"also_samples": (second,)}).save(run)
        shutil.copy(run.data / "x.png", run.data / "y.png")
        (run.data / "y.txt").write_text("my brother in the tower\n")
        compare(
            run, make_row(prompt="My brother in the tower, at night"), make_row(prompt="a mill")
        )

        plan, sent = make_plan(), make_plan(sample_license="cc0-1.0")

        assert shown(plan) == ["-", "a mill"]
        assert "2 images of 64x64 pixels and their captions. They are not part" in body(plan)
        assert "glance trained both on 2 images and their captions" in body(plan)
        files = [name for name in contents(sent) if name.startswith("sample")]
        assert files == [f"sample/sample-{one}.{kind}" for one in (1, 2) for kind in ("png", "txt")]
        assert "](sample/sample-2.png)\n\nmy brother in the tower" in body(sent)
        (run.data / "y.txt").unlink()
        assert shown(make_plan()) == ["-", "-"], "of an unknown caption any prompt may hold it"

    def test_one_that_is_gone_or_outside_of_the_run_is_not_sent(self, run: RunFolder) -> None:
        Image.new("RGB", (8, 8)).save("private.png")
        manifest = load_manifest(run)
        stolen = manifest.sample.model_copy(update={"image": "../../private.png"})
        manifest.model_copy(update={"sample": stolen}).save(run)
        with pytest.raises(RunError, match="sample cannot be read"):
            make_plan(sample_license="cc0-1.0")
        manifest.save(run)
        shutil.rmtree(run.data)

        with pytest.raises(RunError, match=r"sample cannot be read: data/x\.png"):
            make_plan(sample_license="cc0-1.0")


@pytest.mark.usefixtures("run")
class TestPictures:
    def test_those_of_the_comparison_are_shown_beside_the_base(self, run: RunFolder) -> None:
        compare(run, make_row(prompt="a hill"), make_row(prompt="a mill", seed=3))

        plan = make_plan()

        sent = {name: data for name, data in contents(plan).items() if name.startswith("pictures")}
        assert len(sent) == 10
        assert "| a mill, seed 3 | ![base, 50 steps](pictures/2-teacher.png) |" in body(plan)
        assert metadata(plan)["widget"] == [
            {"text": "a hill", "output": {"url": "pictures/1-both.png"}},
            {"text": "a mill", "output": {"url": "pictures/2-both.png"}},
        ]
        assert "Measured, on prompts that it was not trained on: " in body(plan)
        colours = [
            Image.open(BytesIO(sent[f"pictures/1-{variant}.png"])).getpixel((0, 0))
            for variant in Variant
        ]
        assert colours == [(40 * number, 90, 160) for number in range(5)], "not the sample's red"

    def test_no_more_than_a_card_can_show(self, run: RunFolder) -> None:
        compare(run, *(make_row(seed=seed) for seed in range(MOST_ROWS + 2)))

        assert len(shown(make_plan())) == MOST_ROWS

    @pytest.mark.parametrize("name", ["another pair", "compare.json", "pictures/1-both.png"])
    def test_a_comparison_of_another_pair_or_damaged_is_none(
        self, name: str, run: RunFolder
    ) -> None:
        compare(run, make_row())
        if name == "another pair":
            path = run.images / "compare/compare.json"
            other = path.read_text().replace(hash_file(run.lora(Phase.SLOW)), "0" * 64)
            path.write_text(other)
        else:
            path = run.images / "compare" / name
            path.write_bytes(path.read_bytes()[:60])

        plan = make_plan()

        assert shown(plan) == []
        assert any("glance compare --run runs/cat" in note for note in plan.notes)

    def test_without_a_comparison_the_pairs_own_pictures_are_taken_as_pixels_alone(
        self, run: RunFolder
    ) -> None:
        assert any("there are no images of this pair" in note for note in make_plan().notes)
        for name, prompt in (("b.png", "a mill"), ("a.jpg", "a harbour"), ("outside.png", "x")):
            paint(run, name, prompt)
        paint(run, "other.png", loras=())
        Image.new("RGB", (8, 8)).save(run.images / "c.png")
        (run.images / "outside.png").rename("outside.png")
        (run.images / "outside.png").symlink_to(Path("outside.png").resolve())

        plan = make_plan()

        assert shown(plan) == ["a harbour", "a mill"]
        assert b"/home/anna" not in contents(plan)["pictures/2.png"]


class TestText:
    HOSTILE = '"\n---\nlicense: mit\n- [x](http://evil) <script> | `$$a$$` :smile: \x1b[31m'

    def test_a_prompt_can_be_no_markup_and_no_metadata(self, run: RunFolder) -> None:
        compare(run, make_row(prompt=self.HOSTILE))

        plan = make_plan()

        assert metadata(plan)["license"] == "other"
        assert plan.card.count("\n---\n") == 1
        table = next(line for line in body(plan).splitlines() if "evil" in line)
        assert table.count("|") == 7
        assert not set("<>`$*\\\x1b") & set(table)
        assert "](http" not in table

    def test_nor_can_the_manifest_of_a_stranger(self, run: RunFolder) -> None:
        document = json.loads(run.manifest.read_text())
        document["schedule"]["name"] = document["glance"] = "<b>|x"
        document["settings"]["overrides"] = {"tracker`": "/home/anna/x"}
        document["versions"] = {"<torch>": "2"}
        run.manifest.write_text(json.dumps(document))

        text = body(make_plan())

        assert [evil for evil in ("<b>", "<torch>", "/home/anna") if evil in text] == []

    def test_settings_schedule_and_usage_are_the_runs(self) -> None:
        make_run(steps=37, seed=11)

        text = body(make_plan())

        for said in (
            "| steps a phase | 37 |",
            "| seed | 11 |",
            "| slow timesteps | 1000, 979.1915, ",
            "--slow-lora anna/cat:slow.safetensors",
            "--fast-lora anna/cat:fast.safetensors",
            "hf download anna/cat --local-dir pair && cd pair\npython generate.py",
            "put the LoRAs of `comfyui/` into `models/loras` and open",
        ):
            assert said in text

    def test_a_family_that_edits_is_image_to_image_and_every_flag_exists(self) -> None:
        make_run(**EDIT)

        plan = make_plan()

        flags = re.findall(r"--[a-z-]+", body(plan).split("```")[1])
        reference = (Path(__file__).parents[3] / "docs/cli.md").read_text()
        assert metadata(plan)["pipeline_tag"] == "image-to-image"
        assert "--source-image" in flags
        assert len(flags) == 6
        assert [flag for flag in flags if f"{flag} " not in reference] == []

    def test_of_an_imported_pair_only_what_is_known_is_said(self, run: RunFolder) -> None:
        digests = dict.fromkeys(Phase, "0" * 64)
        unknown = ("steps", "learning_rate", "seed", "device")
        record = ImportRecord(sources=digests, sha256=digests, folded=digests, unknown=unknown)
        manifest = load_manifest(run)
        manifest.model_copy(update={"imported": record, "sample": None}).save(run)
        compare(run, make_row(prompt=CAPTION))

        plan = make_plan()

        assert "has not trained them" in body(plan)
        assert "| rank | 2 |" in body(plan)
        hidden = ("| steps a phase", "| seed | 1", "| alpha", "| device", "| learning rate")
        assert [text for text in (*hidden, "The sample") if text in body(plan)] == []
        assert shown(plan) == [CAPTION]


def test_a_plan_lists_every_file_with_size_and_hash_and_touches_no_disk(run: RunFolder) -> None:
    before = sorted(Path().rglob("*"))

    document = make_plan().to_json()

    assert sorted(Path().rglob("*")) == before
    files = {file["path"]: file for file in document["files"]}
    assert next(iter(files)) == "README.md"
    assert {"fast.safetensors", "schedule.json", "generate.py"} < set(files)
    open_source(run.path).copy_lora(Phase.SLOW, Path("copied"))
    assert files["slow.safetensors"]["sha256"] == hash_file(Path("copied"))
    assert files["slow.safetensors"]["bytes"] == Path("copied").stat().st_size
    assert document["private"] is True


@pytest.mark.parametrize("model", [FLUX, "../../bases/mine"])
def test_no_byte_says_where_the_run_or_its_model_lies(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(Path("runs/secret").resolve(), model=model)
    paint(run, "x.png")
    before = contents(make_plan(run.path, sample_license="cc0-1.0"))
    moved = Path(shutil.move(run.path, tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)

    assert contents(make_plan(moved, sample_license="cc0-1.0")) == before
    written = b"".join(before.values())
    for told in (str(tmp_path), "secret", "bases"):
        assert told.encode() not in written


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[RepoHub]:
    """A Hub that huggingface_hub talks to; it read its environment long ago, in another test."""
    from huggingface_hub import constants

    hub = RepoHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    hub.close()


def ignore(_: Event) -> None:
    pass


@pytest.mark.usefixtures("run")
class TestSending:
    def test_everything_arrives_in_one_commit_in_a_private_repository(
        self, hub: RepoHub, capfd: pytest.CaptureFixture[str], run: RunFolder
    ) -> None:
        compare(run, make_row())
        plan = make_plan()

        result = send_hub(plan, ignore)

        there = hub.repos["anna/cat"]
        assert {n: c for n, c in there.files.items() if n != ".gitattributes"} == contents(plan)
        assert len(there.commits) == 1
        assert there.private
        assert result["url"] == f"{hub.url}/anna/cat"
        assert (result["commit"], result["private"]) == (there.sha, True)
        assert capfd.readouterr() == ("", "")

    def test_a_name_alone_goes_to_the_tokens_owner_and_what_the_hub_warns_of_is_told(
        self, hub: RepoHub
    ) -> None:
        hub.warns = ["no such tag"]
        events: list[Event] = []
        plan = make_plan(repo="cat")

        result = send_hub(plan, events.append)

        assert "no such tag" in next(e.message for e in events if isinstance(e, Warned))
        assert "OWNER/cat:slow" in plan.card
        assert result["repo"] == "anna/cat"
        assert b"anna/cat:slow" in hub.repos["anna/cat"].files["README.md"]
        assert b"OWNER" not in hub.repos["anna/cat"].files["README.md"]

    def test_what_fails_leaves_an_empty_repository_and_public_is_what_is_whole(
        self, hub: RepoHub
    ) -> None:
        hub.fails = {"/commit/": 403}

        with pytest.raises(SetupError, match="no right to write to anna/cat"):
            send_hub(make_plan(public=True), ignore)

        assert set(hub.repos["anna/cat"].files) == {".gitattributes"}
        assert hub.repos["anna/cat"].private
        hub.fails = {}
        hub.requests.clear()
        send_hub(make_plan(public=True), ignore)  # the same command goes on from there
        assert "slow.safetensors" in hub.repos["anna/cat"].files
        steps = [line.split("/")[-2:] for line in hub.requests if "POST" in line or "PUT" in line]
        assert steps.index(["commit", "main"]) < steps.index(["cat", "settings"])
        assert not hub.repos["anna/cat"].private

    def test_an_export_that_is_there_is_replaced_by_force_alone(
        self, hub: RepoHub, run: RunFolder
    ) -> None:
        compare(run, make_row())
        send_hub(make_plan(sample_license="cc0-1.0"), ignore)
        shutil.rmtree(run.images)
        there = hub.repos["anna/cat"]

        with pytest.raises(InputError, match="holds files already") as refused:
            send_hub(make_plan(), ignore)
        assert refused.value.problems[0].hint == "give another --repo; --force would replace them"
        assert len(there.commits) == 1

        send_hub(make_plan(force=True), ignore)
        assert not any(name.startswith(("pictures/", "sample/")) for name in there.files)
        assert "slow.safetensors" in there.files
        assert len(there.commits) == 2

    def test_what_is_public_already_is_not_filled_unasked(self, hub: RepoHub) -> None:
        hub.repos["anna/cat"] = Repo(private=False)

        with pytest.raises(InputError, match="anna/cat is public"):
            send_hub(make_plan(), ignore)

        assert hub.repos["anna/cat"].commits == []

    @pytest.mark.parametrize(
        ("fails", "message"),
        [
            ({"repos/create": 401}, "the Hub does not know the token"),
            ({"repos/create": 429}, "fewer requests"),
            ({"/commit/": 412}, "changed in the meantime"),
            ({"validate-yaml": 400}, "the Hub did not take anna/cat"),
        ],
        ids=["unknown", "too often", "changed", "card"],
    )
    def test_every_refusal_of_the_hub_is_explained(
        self, hub: RepoHub, fails: dict[str, int], message: str
    ) -> None:
        hub.fails = fails

        with pytest.raises(SetupError, match=message) as refused:
            send_hub(make_plan(), ignore)

        assert refused.value.exit_code == 3
        assert TOKEN not in str(refused.value)

    def test_without_a_token_a_connection_or_an_answer_nothing_is_tried(
        self, hub: RepoHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = make_plan()
        with monkeypatch.context() as patch:
            patch.delenv("HF_TOKEN")
            with pytest.raises(SetupError, match="there is no token of the Hub"):
                send_hub(plan, ignore)
        with monkeypatch.context() as patch:
            patch.setenv("HF_HUB_OFFLINE", "1")
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            with pytest.raises(SetupError, match="HF_HUB_OFFLINE forbids sending"):
                send_hub(plan, ignore)
        assert hub.requests == []
        hub.close()
        with pytest.raises(SetupError, match="the Hub does not answer"):
            send_hub(plan, ignore)
