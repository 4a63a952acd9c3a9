"""`glance compare` and `glance train --compare` as users meet them; sampling is in tests/torch."""

from pathlib import Path

import pytest
from fakes.commands import TRAIN, Glance
from fakes.comparisons import fake_likeness, fill_cache, fill_worth, read_figures, write_caption
from fakes.pairs import write_run
from fakes.trainer import FakeSimpleTuner

from glance.core.errors import InferenceFailed
from glance.evaluation import compare
from glance.evaluation.compare import NEUTRAL_PROMPT, plan_comparison
from glance.evaluation.request import CompareRequest

RUN = Path("runs/cat")
COMPARE = ("compare", "--device", "cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_likeness(monkeypatch)


@pytest.fixture
def compared() -> None:
    """A finished run whose caption, and another prompt, were compared before."""
    write_run(RUN)
    write_caption(RUN, "a grey circle")
    for prompts in ((), ("a hill",)):
        fill_cache(plan_comparison(CompareRequest(RUN, prompts, device="cpu")))


@pytest.mark.usefixtures("compared")
def test_it_prints_the_sheets_path_a_table_and_the_verdict(invoke: Glance) -> None:
    done = invoke(*COMPARE)  # all is cached: no model is needed

    assert (done.code, done.err) == (0, "using the newest finished run, runs/cat\n")
    assert (
        done.out
        == """\
runs/cat/images/compare/sheet.png
              image  latents   SSIM  PSNR dB
     base, 50 steps        -      -        -
     base, 10 steps    0.500  0.500     20.0
slow only, 10 steps    0.400  0.600     24.0
fast only, 10 steps    0.300  0.700     28.0
     both, 10 steps    0.200  0.800     32.0
one image proves little (from 8 on there is a verdict): in 10 steps the pair ends 60 % nearer to \
the base's 50 than the base itself along the same sigmas (latents 0.200 against 0.500, difference \
-0.300; 1 - SSIM 0.200 against 0.500, difference -0.300)
"""
    )
    assert (RUN / "images/compare/pictures/1-both.png").is_file()
    assert str(Path.cwd()) not in (RUN / "images/compare/compare.json").read_text()


@pytest.mark.usefixtures("compared")
def test_a_dry_run_says_what_is_to_be_sampled_and_what_is_there(invoke: Glance) -> None:
    command = (*COMPARE, "--prompt", "a hill", "--prompt", "a wood", "--dry-run", "--quiet")

    shown, document = invoke(*command), invoke(*command, "--json").document

    assert (shown.code, shown.err) == (0, "")
    assert "side by side  base, 50 steps\n" in shown.out
    assert "5 of them are in the cache; 90 steps to go\n" in shown.out
    assert "{" not in shown.out
    assert [row["prompt"] for row in document["rows"]] == ["a hill", "a wood"]
    assert (document["pictures"], document["cached"], document["steps"]) == (10, 5, 90)
    assert not (RUN / "images").exists()


@pytest.mark.parametrize(("flags", "worth"), [((), 5), (("--no-worth",), None)])
def test_eight_pictures_have_a_verdict(
    invoke: Glance, flags: tuple[str, ...], worth: int | None
) -> None:
    write_run(RUN)
    plan = plan_comparison(CompareRequest(RUN, ("a hill", "a sea"), count=4, device="cpu"))
    fill_cache(plan)
    fill_worth(plan)
    command = (*COMPARE, "--prompt", "a hill", "--prompt", "a sea", "--count", "4", *flags)

    shown, document = invoke(*command, "--quiet"), invoke(*command, "--json", "--quiet").document

    last = shown.out.splitlines()[-1]
    folder = RUN / "images/compare"
    assert document == {"sheet": str(folder / "sheet.png"), **read_figures(folder)}
    assert [row["prompt"] for row in document["rows"]] == ["a hill"] * 4 + ["a sea"] * 4
    assert document["rows"][0]["variants"]["both"] == {
        "steps": 10, "seconds": None, "was_cached": True, "latents": 0.2, "psnr": 32.0, "ssim": 0.8,
    }  # fmt: skip
    assert last == document["sentence"]
    assert last.startswith("it helps: in 10 steps the pair ends 60 % nearer to the base's 50 than ")
    assert last.endswith("variety 92 % of the base's")
    assert ("worth about 5 of the base's own steps" in last) == (worth == 5)
    difference = {"base": 0.5, "pair": 0.2, "difference": -0.3, "interval": [-0.3, -0.3]}
    assert document["verdict"] == {
        "distance": difference,
        "perceptual": {**difference, "metric": "1 - ssim"},
        "variety": {"base": 1.6667, "pair": 1.5333},
        "worth_steps": worth,
        "images": 8,
    }


def test_what_must_be_fetched_is_refused_offline_at_once(invoke: Glance) -> None:
    write_run(RUN)
    metric = invoke(*COMPARE, "--prompt", "x", "--metric", "lpips", "--json")
    write_run(Path("runs/absent"), model="acme/absent")
    model = invoke(*COMPARE, "--run", "runs/absent", "--prompt", "x")

    assert (metric.code, model.code) == (3, 3)
    (problem,) = metric.document["error"]["problems"]
    assert problem["message"].startswith("--metric lpips: its network, ")
    assert "model acme/absent is not in the cache" in model.err


@pytest.mark.usefixtures("pair", "simpletuner")
class TestTrain:
    def test_a_dry_run_does_nothing_more(self, invoke: Glance) -> None:
        assert invoke(*TRAIN, "--dry-run", "--compare") == invoke(*TRAIN, "--dry-run")

        assert not RUN.exists()

    def test_one_phase_is_no_pair(self, invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
        done = invoke(*TRAIN, "--phase", "slow", "--compare")

        assert (done.code, done.out) == (0, "runs/cat\n")
        assert "there is no pair to compare yet" in done.err

    @pytest.mark.usefixtures("fully_trained")
    def test_the_loras_are_named_when_comparing_fails(
        self, invoke: Glance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def load(*_: object, **__: object) -> None:
            raise InferenceFailed("there are no weights")

        monkeypatch.setattr(compare, "load_planned", load)

        done = invoke(*TRAIN, "--compare")

        assert (done.code, done.out) == (6, "runs/cat\n")
        assert "both LoRAs are done: runs/cat/output/glance-slow/" in done.err
        assert "after fixing the problem below: glance compare --run runs/cat\n" in done.err
        assert "error: there are no weights\n" in done.err

    @pytest.mark.usefixtures("fully_trained")
    def test_it_ends_with_one_sentence(self, invoke: Glance) -> None:
        prompts = ("a grey circle", NEUTRAL_PROMPT)
        fill_cache(plan_comparison(CompareRequest(RUN, prompts, device="cpu")))

        done = invoke(*TRAIN, "--compare")
        quiet = invoke(*TRAIN, "--compare", "--quiet")
        document = invoke(*TRAIN, "--compare", "--json", "--quiet").document

        assert done.code == 0
        assert "sheet: runs/cat/images/compare/sheet.png\n" in done.err
        run, sentence = done.out.splitlines()
        assert run == "runs/cat"
        assert (quiet.out, quiet.err) == (done.out, "")
        assert sentence == document["comparison"]["sentence"]
        assert sentence.startswith("2 images prove little (from 8 on there is a verdict): in 10 ")
        assert document["comparison"]["verdict"]["distance"]["difference"] == -0.3
        assert document["phases"]["slow"]["state"] == "done"
