"""Mistakes get one clear line and exit 2; bugs one line and exit 70; nothing is left behind."""

from pathlib import Path

import pytest

from tests.cli.conftest import DIGITS, Cli, Trained

TRAIN = ("train", DIGITS, "--engine", "inline", "--workers", "2", "--steps", "2")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--schedule", "bps"), "there is no schedule 'bps' (did you mean 'bsp'?)"),
        (("--codec", "fp31"), "there is no codec 'fp31' (did you mean 'fp32'"),
        (("--staleness", "invers"), "did you mean 'inverse' or "),
        (("--engine", "lokal"), "did you mean 'local'?"),
        (("--address", "auto"), "engine 'inline' takes no option 'address'"),
        (("--schedule", "ssp:x"), "must be of type int, not 'x'"),
        (("--store", "s4://bucket/run"), "s4:// is no store we know; did you mean s3"),
        (("--target", "acuracy>=0.9"), "the job reports accuracy, loss"),
        (("--target", "accuracy"), "a target looks like 'accuracy>=0.95'"),
        (("--workers", "0"), "workers: must be 1 or more"),
        (("--partition", "sorded"), "there is no partition 'sorded' (did you mean 'sorted' or"),
        (("--partition", "by:site"), "Digits.dataset() has no list 'site' of 1437 values"),
        (("--partition", "sorted", "--workers", "1500"), "leaves worker 1437 and 62 more of 1500 without samples"),
        (("--partition", "job"), "needs Digits.partition(workers), which says who owns each sample"),
        (("--schedule", "cohort:9", "--workers", "4"), "takes 9 workers a round, and there are 4"),
        (("--algorithm", "statistics"), "needs a lambdaml.StatisticsJob, and Digits is none: it has gradients"),
        (("--workers", "3000"), "too few for 3000 workers"),
        (("--epochs", "1"), "either steps or epochs"),
        (("--set", "lr"), "--set lr: write KEY=VALUE"),
        (("--set", "rate=1"), "does not take these arguments: 'rate'"),
        (("--lease", "-1"), "lease_s: "),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], says: str, cli: Cli) -> None:
    ended = cli(*TRAIN, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1
    assert says in ended.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "algorithm 'gradient' needs gradients, and KMeans has none: give --algorithm statistics"),
        (
            ("--algorithm", "statistics", "--set", "clusters=2000"),
            "2000 clusters need as many samples, and there are 1797",
        ),
        (
            ("--algorithm", "statistics", "--schedule", "asp"),
            "schedule 'asp' takes steps without the newest statistics of all",
        ),
        (("--algorithm", "statistics", "--codec", "bf16"), "codec 'bf16' changes numbers"),
        (("--algorithm", "statistics", "--set", "data=none.npy"), "none.npy is no .npy or .npz file"),
    ],
)
def test_a_job_of_statistics_is_not_trained_otherwise(
    arguments: tuple[str, ...], says: str, cli: Cli, tmp_path: Path
) -> None:
    ended = cli("train", "lambdaml.jobs:KMeans", "--store", f"{tmp_path}/run", "--engine", "inline", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1 and says in ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("job", "codec", "says"),
    [
        (DIGITS, "topk:0", "codec 'topk:0': density must be above 0 and at most 1, not 0.0"),
        (DIGITS, "topk:1.5", "codec 'topk:1.5': density must be above 0 and at most 1, not 1.5"),
        (DIGITS, "randomk:-1", "codec 'randomk:-1': density must be above 0 and at most 1, not -1.0"),
        (DIGITS, "topk:0.1,warmup=2/0.1", "warmup must be above 0 and at most 1, not 2"),
        (DIGITS, "sparse:1000", "codec 'sparse:1000': keep must be a power of two from 8 to 256, not 1000"),
        (DIGITS, "powersgd:500", "codec 'powersgd:500' saves nothing with rank 500 on any tensor of this model"),
        (DIGITS, "powersgd:0", "codec 'powersgd:0': rank must be 1 or more, not 0"),
        (DIGITS, "significant:0.01", "needs displacements, which algorithm 'gradient' does not send"),
        ("double.py:Double", "fp16", "codec 'fp16' carries float32 numbers, and this model's gradients are float64"),
        ("double.py:Double", "sparse", "codec 'sparse' carries float32 numbers"),
    ],
)
def test_a_codec_that_cannot_carry_the_updates_is_one_line_and_no_run_is_left(
    job: str, codec: str, says: str, cli: Cli
) -> None:
    double = "class Double(Tiny):\n    def model(self):\n        return super().model().double()\n"
    Path("double.py").write_text(f"from tests.lambdaml.lab import Tiny\n\n{double}")
    ended = cli("train", job, *TRAIN[2:], "--codec", codec)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1
    assert says in ended.err
    assert list(Path().rglob("run.json")) == []


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ("missing.py:Job", "there is no file missing.py"),
        (DIGITS + "s", "did you mean 'Digits'?"),
        ("no.such.module:Job", "No module named 'no'"),
    ],
)
def test_a_job_that_cannot_be_had(job: str, says: str, cli: Cli) -> None:
    ended = cli("train", job, "--steps", 1)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert says in ended.err
    assert not Path("runs").exists()


def test_a_job_file_that_is_not_python(cli: Cli) -> None:
    Path("broken.py").write_text("class Broken(:\n")
    ended = cli("train", "broken.py:Broken")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "cannot import broken.py:Broken: SyntaxError" in ended.err


def test_an_existing_run_is_left_alone_and_resume_is_offered(trained: Trained, cli: Cli) -> None:
    before = sorted(trained.place.rglob("*"))
    ended = cli(*TRAIN, "--store", trained.place)
    assert ended.code == 2
    assert "there is a run at" in ended.err and "lambdaml resume" in ended.err
    assert [path for path in sorted(trained.place.rglob("*")) if path.is_file()] == [p for p in before if p.is_file()]


@pytest.mark.parametrize("verb", ["status", "trace", "verify", "replay", "resume", "cancel", "gc"])
def test_a_run_that_does_not_exist(verb: str, cli: Cli) -> None:
    ended = cli(verb, "nowhere")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"error: there is no run at file://{Path.cwd()}/nowhere\n"
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (("stats", "x"), "No such command 'stats'. Did you mean 'status'?", "lambdaml --help"),
        (("train",), "Missing argument 'JOB'.", "lambdaml train --help"),
        (("train", "x", "--stpes", "1"), "--steps", "lambdaml train --help"),
        (("train", "x", "--steps", "many"), "'--steps'", "lambdaml train --help"),
    ],
)
def test_a_command_that_is_not_understood(arguments: tuple[str, ...], says: str, hint: str, cli: Cli) -> None:
    ended = cli(*arguments)
    assert (ended.code, ended.out) == (2, "")
    error, try_this = ended.err.splitlines()
    assert error.startswith("error: ") and says in error
    assert try_this == f"try '{hint}'"


def test_a_bug_of_ours_is_one_line_and_70(trained: Trained, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("lambdaml.run.Run.status", broken)
    ended = cli("status", trained.place)
    assert ended.code == 70
    assert ended.err == "error: ZeroDivisionError: by zero (set LAMBDAML_TRACEBACK=1 for the traceback)\n"
    monkeypatch.setenv("LAMBDAML_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in cli("status", trained.place).err


def test_help_and_nothing_at_all_print_help(cli: Cli) -> None:
    asked, bare = cli("--help"), cli()
    assert asked.code == bare.code == 0
    assert "Usage: lambdaml" in asked.out and "Usage: lambdaml" in bare.out
    assert "130" in asked.out
