"""The picture that events make of a run, and how it is shown."""

import io
import sys
from dataclasses import replace
from threading import Thread
from typing import Any, ClassVar

import pytest
from rich.console import Console

from lambdaml.cli._format import duration, shown, size
from lambdaml.cli._progress import Picture, Progress
from lambdaml.engines.forkserver import _no_terminal
from lambdaml.errors import JobError
from lambdaml.events import (
    CommitEvent,
    EndedEvent,
    MetricsEvent,
    OutageEvent,
    ReadyEvent,
    RecoveredEvent,
    RoomEvent,
    RunEvent,
    StartedEvent,
    WaitingEvent,
)
from lambdaml.settings import JobSettings, Settings


def settings(**changes: Any) -> Settings:
    sizes = {"batch_size": 1, "samples": 4, "steps_per_epoch": 1, "parameters": 1, "snapshot_every": 1}
    given = {"schedule": "asp", "workers": 4, "steps": 100, **sizes, "token": "t"}
    return Settings(job=JobSettings(spec="x"), **given | changes)


def commit(version: int, progress: int, **more: Any) -> CommitEvent:
    told = {"commit": version, "fraction": 0.5, "updates": 1, "training_loss": 0.5, "staleness": [1]}
    return CommitEvent(version=version, progress=progress, **told | more)


def picture(**changes: Any) -> Picture:
    made = Picture("runs/x-1")
    made.take(RunEvent(run="file:///x", settings=settings(**changes), functions=2), 0.0)
    return made


def test_rate_and_time_left_come_from_the_recent_pace() -> None:
    made = picture()
    for second in range(31):
        made.take(commit(10 * second, 10 * second), float(second))
    assert made.updates_per_s(30.0) == pytest.approx(10)
    assert made.left_s(30.0) == pytest.approx(10)
    assert made.facts(30.0) == [
        "version 300",
        "training loss 0.5",
        "10 updates/s",
        "staleness p50 1 p95 1",
        "10 s left",
    ]


def test_a_line_has_what_is_new_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made = picture(target="accuracy>=0.95")
    for second in range(31):
        made.take(commit(10 * second, 10 * second), float(second))
    made.take(MetricsEvent(version=300, metrics={"accuracy": 0.75}), 30.0)
    assert made.facts(30.0)[-1] == "until accuracy>=0.95"
    assert made.line(30.0) == "version 300, training loss 0.5, 10 updates/s, staleness p50 1 p95 1"
    assert made.line(70.0) == "version 300, training loss 0.5, last commit 40 s ago, staleness p50 1 p95 1"
    monkeypatch.setenv("COLUMNS", "60")
    assert made.line(30.0) == "version 300, training loss 0.5, staleness p50 1 p95 1"


def test_rate_and_time_left_age_while_nothing_happens() -> None:
    made = picture()
    for tick in range(101):
        made.take(commit(tick, tick), tick / 100)
    assert made.updates_per_s(1.0) == pytest.approx(100)
    rates = [made.updates_per_s(float(now)) or 0 for now in (1, 2, 5, 10)]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(10)
    facts = made.facts(41.0)
    assert facts[2:4] == ["0.025 updates/s", "last commit 40 s ago"]
    assert facts[-1] == "3 h 20 min left"  # 300 updates, as slow as the last one
    made.take(commit(101, 101), 41.0)
    assert made.updates_per_s(41.0) == pytest.approx(1 / 40)
    assert "last commit" not in " ".join(made.facts(41.0))


def test_slow_commits_have_a_rate_too() -> None:
    made = picture()
    for number in range(4):
        made.take(commit(number, 4 * number), 30.0 * number)
    assert made.updates_per_s(90.0) == pytest.approx(4 / 30)
    assert made.left_s(90.0) == pytest.approx((400 - 12) * 30 / 4)


def test_a_metric_named_loss_is_not_the_training_loss() -> None:
    made = picture()
    made.take(commit(7, 7), 1.0)
    news = made.take(MetricsEvent(version=7, metrics={"accuracy": 0.75, "loss": 0.9}), 1.0)
    assert news == "version 7: accuracy 0.75, evaluation loss 0.9"
    assert made.facts(1.0)[1:3] == ["training loss 0.5", "accuracy 0.75, evaluation loss 0.9 at version 7"]


def test_time_left_counts_steps_with_quorum_and_is_unknown_with_a_target() -> None:
    quorum, target = picture(schedule="quorum:2"), picture(target="accuracy>=0.95")
    for made in (quorum, target):
        made.take(commit(1, 4), 0.0)
        made.take(commit(51, 204), 10.0)
    assert quorum.left_s(10.0) == pytest.approx(49 / 5)
    assert target.left_s(10.0) is None
    assert target.facts(10.0)[-1] == "until accuracy>=0.95"


def test_a_wait_is_shown_until_the_next_commit() -> None:
    made = picture()
    assert made.take(WaitingEvent(worker=3, seconds=12.0), 20.0) == "waiting for worker 3 since 12 s"
    assert made.waits(21.0) == "worker 3 since 13 s"
    made.take(commit(1, 1), 22.0)
    assert made.waits(23.0) == ""


def test_deaths_and_replacements_are_news_and_good_ends_are_not() -> None:
    made = picture()
    assert made.take(StartedEvent(function="f.1"), 0) is None
    assert made.take(StartedEvent(function="f.2"), 0) is None
    assert made.take(EndedEvent(function="f.1", code=-9), 1) == "f.1 died (signal 9)"
    ended = EndedEvent(function="f.1", code=-1, reason="its node died")
    assert made.take(ended, 1) == "f.1 died (its node died)"
    assert "needs 9 CPU, since 12 s" in str(made.take(RoomEvent(needs="9 CPU", seconds=12.0), 1))
    assert made.take(StartedEvent(function="f.3"), 1) == "f.3 takes its place"
    assert made.take(EndedEvent(function="f.3", code=0), 2) is None
    assert made.take(ReadyEvent(), 2) is None


def test_an_outage_is_told_of_once_and_so_is_its_end_however_many_functions_see_it() -> None:
    made = picture()
    outage = OutageEvent(error="get a: connection failed", patience_s=600.0)
    recovered = RecoveredEvent(seconds=41.0)
    said = [made.take(replace(outage, function=name), 1.0) for name in ("f.1", "f.2", "f.1")]
    assert said == ["the store cannot be reached, waiting for up to 10 min 0 s: get a: connection failed", None, None]
    assert made.take(outage, 2.0) is None, "this process"
    assert made.take(EndedEvent(function="f.2", code=2), 3.0) is None
    assert made.take(recovered, 40.0) is None
    assert made.take(replace(recovered, function="f.1"), 41.0) == "the store can be reached again, after 41 s"
    assert made.take(replace(outage, function="f.1"), 50.0) == said[0]


def test_rejections_are_news() -> None:
    rejected = ["worker 0's update 3: its loss is not finite"]
    assert picture().take(commit(7, 8, rejected=rejected), 1.0) == f"version 7: rejected {rejected[0]}"
    assert picture().take(commit(7, 8), 1.0) is None


def test_off_a_terminal_lines_are_few_and_plain() -> None:
    out = io.StringIO()
    with Progress(Console(file=out), "runs/x-1") as progress:
        progress.take(RunEvent(run="file:///x", settings=settings(), functions=2))
        for version in range(1, 100):
            progress.take(commit(version, version))
        progress.take(MetricsEvent(version=50, metrics={"accuracy": 0.75}))
    first, second, third = out.getvalue().splitlines()
    assert first == "runs/x-1: asp, 4 workers on 2 functions, 100 steps"
    assert second == "version 1, training loss 0.5, staleness p50 1 p95 1"
    assert third == "version 50: accuracy 0.75"


def test_a_breakpoint_of_the_job_has_the_terminal_to_itself_and_stops_in_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped: list[str] = []
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)
    monkeypatch.setattr("pdb.Pdb.set_trace", lambda self, frame: stopped.append(frame.f_code.co_name))
    monkeypatch.setattr(sys, "breakpointhook", sys.breakpointhook)
    out = io.StringIO()

    def loss() -> None:
        breakpoint()  # noqa: T100
        print("still drawing?", file=sys.stdout)

    with Progress(Console(file=out, force_terminal=True), "x") as progress:
        drawing = sys.stdout
        loss()
        assert sys.stdout is not drawing  # the display no longer catches what is printed
        progress.take(commit(1, 1))
    assert stopped == ["loss"]


def test_a_breakpoint_in_a_function_says_what_to_do() -> None:
    with pytest.raises(JobError, match="--engine inline"):
        _no_terminal()


class AskingConsole(Console):
    """Has another thread draw the display while it prints, as a display that refreshes itself does."""

    display: Progress
    drawn: ClassVar[list[bool]] = []

    def print(self, *_: Any, **__: Any) -> None:
        thread = Thread(target=lambda: list(self.display.__rich_console__(self, self.options)), daemon=True)
        thread.start()
        thread.join(10)
        self.drawn.append(not thread.is_alive())


def test_the_display_can_be_drawn_while_a_line_is_printed() -> None:
    console = AskingConsole(file=io.StringIO())
    console.display = Progress(console, "x")
    console.display.take(RunEvent(run="file:///x", settings=settings(), functions=2))
    console.display.take(commit(1, 1))
    console.display.take(MetricsEvent(version=1, metrics={"accuracy": 0.75}))
    assert console.drawn == [True, True, True]


def test_after_ctrl_c_the_main_thread_hears_of_it_once_and_others_never() -> None:
    progress = Progress(Console(file=io.StringIO()), "x")
    progress.take(commit(1, 1))
    progress.stop()
    aside = Thread(target=progress.take, args=(commit(2, 2),))
    aside.start()
    aside.join()
    with pytest.raises(KeyboardInterrupt):
        progress.take(commit(3, 3))
    progress.take(commit(4, 4))


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_shows_the_picture_without_colour_if_so_wished(
    no_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=True, width=100), "x") as progress:
        progress.take(RunEvent(run="file:///x", settings=settings(), functions=2))
        progress.take(commit(5, 5))
        progress.take(WaitingEvent(worker=1, seconds=11.0))
    assert "version 5 · training loss 0.5" in out.getvalue()
    yellow = "\x1b[33m"
    assert (yellow in out.getvalue()) is not no_color


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes() -> None:
    assert [size(999), size(38_760), size(4.9e6), size(2e13)] == ["999 B", "38.8 kB", "4.9 MB", "20.0 TB"]


def test_runs_are_named_as_one_would_type_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(f"file://{tmp_path}/runs/x-1") == "runs/x-1"
    assert shown("file:///elsewhere/x 1") == "'/elsewhere/x 1'"
    assert shown("s3://bucket/x") == "s3://bucket/x"
    assert shown("s3://bucket/x?region=a") == "'s3://bucket/x?region=a'"
