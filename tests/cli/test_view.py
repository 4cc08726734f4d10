"""The picture of a run says what matters in words, and fits the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambdaml.cli import _plot, _view
from lambdaml.cli._plot import bar, plot, spark
from lambdaml.cost.reporting.spending import Against, Spending
from lambdaml.log.summary import Staleness
from lambdaml.storage import MeterReading
from lambdaml.traces.seen import Seen, SeenWorker
from tests.cli.test_progress import settings

SETTINGS = settings(schedule="bsp", workers=32)
SPENDING = Spending(
    "lambda-arm:1769", "s3-standard", Against(0.5, 2.0, 1.0), Against(900, 1200), Against(30.0, 60.0), 0.000021
)
SEEN = Seen(
    run="s3://bucket/run",
    state="running",
    schedule="bsp",
    target="",
    version=12,
    commits=12,
    progress=0.12,
    stalled=False,
    elapsed_s=30.0,
    quiet_s=0.4,
    usual_s=2.5,
    left_s=200.0,
    loss=((1, 2.0), (12, 0.5)),
    metrics={"accuracy": ((6, 0.5), (12, 0.75)), "loss": ((6, 1.0), (12, 0.5)), "a name of a metric": ((12, 1.0),)},
    workers=tuple(SeenWorker(number, 11, 12, 1.0, f"function-{number // 8}", 1) for number in range(32)),
    staleness=Staleness(0.0, 0.0, 0.0, 0),
    recent=Staleness(1.0, 1.0, 2.0, 2),
    phases={"compute": 0.5, "store": 0.3, "wait": 0.2},
    reading=MeterReading({"get": 900}),
    lifetimes_s=(30.0,) * 4,
    platform="lambda-arm:1769",
    functions=4,
    died=1,
    handovers=8,
    refused={"rejected": 2},
    asked=MeterReading({"get": 41}),
    parts={"kl": 0.25},
)


def text(seen: Seen, width: int = 80, height: int = 24) -> str:
    return "\n".join(line for _, line in _view.view(seen, SPENDING, SETTINGS, width, height))


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_fits(width: int) -> None:
    lines = text(SEEN, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 24


def test_it_says_what_matters() -> None:
    shown = " ".join(text(SEEN).split())
    for words in (
        "12%, 3 min 20 s left",
        "12 after 12 commits, one in 2.5 s",
        "an update's time: compute 50%, store 30%, wait 20%",
        "900, 75% of the plan's 1,200",
        "$0.5000, 25% of the plan's $2.00, 50% of the cap of $1.00",
        "1 function died, 8 changes of hands, 2 updates rejected",
        "this view: 41 requests, $0.000021",
        "loss parts kl 0.25",
        "workers that were seen later",
    ):
        assert words in shown, words
    assert "STALLED" not in shown


def test_a_stall_is_said_in_red_and_in_words_with_those_it_waits_for_first() -> None:
    workers = tuple(replace(worker, awaited=worker.worker in (3, 30)) for worker in SEEN.workers)
    seen = replace(SEEN, stalled=True, quiet_s=45.0, workers=workers)
    lines = _view.view(seen, SPENDING, SETTINGS, 80, 24)
    red = " ".join(line.strip() for style, line in lines if "red" in style)
    assert red == "STALLED: nothing for 45 s, waiting for worker 3 (held by function-0), worker 30 (held by function-3)"
    table = text(seen)[text(seen).index("worker  update") :].splitlines()
    assert [row.split()[0] for row in table[1:3]] == ["3", "30"]
    assert _view.sentence(seen).endswith("worker 30 (held by function-3)")


def test_curves_are_drawn_in_one_line_and_without_more_than_ascii_where_that_is_all_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_plot, "_has_blocks", lambda: True)
    assert spark([0.0, 1.0, 2.0, 3.0, 3.0, 3.0], 3) == "▁▇█"
    assert (spark([], 9), spark([1.0], 9), bar(0.5, 4)) == ("", "▁", "██░░")
    monkeypatch.setattr(_plot, "_has_blocks", lambda: False)
    assert spark([0.0, 7.0], 9).isascii()
    drawn = "\n".join(plot({"one": [(0, 1.0), (9, 2.0)], "other": [(0, 2.0)]}, 40, 5))
    assert drawn.isascii()
    assert max(map(len, drawn.splitlines())) <= 40
    assert drawn.splitlines()[0].startswith("2 | o")
