"""The verb `lambdaml influence`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambdaml.cli import _format, _options
from lambdaml.errors import UserError

if TYPE_CHECKING:
    from lambdaml.influence.measure import InfluenceReport
    from lambdaml.run import Run

_SHOWN = 20
"""So many clients are shown at either end of a long ranking; files and pages have all."""

_Estimator = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The estimator: `fisher` takes the gradients that a run with `--extra per-sample:N` has recorded, and `exact` "
        "the second derivatives of the loss on the data.",
    ),
]
_Truncation = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What is left out of the estimate once it grows: the later influence through a layer (`layer`), or through a "
        "layer and a client (`client`); `none` for nothing.",
    ),
]
_Truth = Annotated[bool, typer.Option("--truth", help="Also train without each client, and show the truth beside.")]
_At = Annotated[
    int | None, typer.Option(min=1, metavar="V", help="The version of the model; by default the last one of the log.")
]
_Html = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write a page with the ranking and charts to this file.")
]
_Csv = Annotated[
    str | None, typer.Option(metavar="FILE", help="Write the ranking as CSV to this file, or to stdout if it is `-`.")
]
_DropLowest = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE@V",
        help="Wait until the run has reached version V, and leave out this share of its clients from then on, those with "
        "the lowest influence; for instance `0.1@700`.",
    ),
]


def influence(
    run: _options.Run,
    estimator: _Estimator = "fisher",
    truncation: _Truncation = "client",
    truth: _Truth = False,
    at: _At = None,
    html: _Html = None,
    csv: _Csv = None,
    drop_lowest: _DropLowest = None,
    as_json: _options.Json = False,
) -> int:
    """Say which clients of a run of federated averaging made its model better, and which worse.

    The influence of a client on a metric is what the metric would be if the client had never taken part, less what it is.
    It is estimated along the log, without training again; --truth trains again.
    """
    from lambdaml.influence.cleansing import Cleansing, leave_out_lowest
    from lambdaml.run import Run

    cleansing = None if drop_lowest is None else Cleansing.parse(drop_lowest)
    if cleansing is not None and at is not None:
        raise UserError("--drop-lowest says which version: leave out --at")
    opened = Run(run)
    if cleansing is not None:
        at = cleansing.version
        _wait(opened, at)
    found = _measured(opened, estimator=estimator, truncation=truncation, truth=truth, at=at)
    dropped = [] if cleansing is None else leave_out_lowest(opened, found, cleansing.share)
    if html is not None:
        _write(html, found)
    if csv is not None:
        from lambdaml.influence.table import influence_rows

        rows = influence_rows(found)
        _format.write_csv(csv, list(rows[0]), rows)
    if as_json:
        _format.print_json({**found.to_dict(), "dropped": dropped})
    elif csv != "-":
        _print(found, dropped)
    return 0


def _wait(run: Run, version: int) -> None:
    from lambdaml.cli._interrupt import interruptible
    from lambdaml.cli._progress import Share
    from lambdaml.influence.cleansing import wait_for_version

    with Share(f"waiting for version {version:,}") as share, interruptible(share.stop, share.close):
        wait_for_version(run, version, lambda now: share(min(1.0, now / version)))


def _measured(run: Run, **options: Any) -> InfluenceReport:
    from lambdaml.cli._interrupt import interruptible
    from lambdaml.cli._progress import Share

    with Share("following the run") as share, interruptible(share.stop, share.close):
        return run.influence(**options, progress=share)


def _write(place: Path, found: InfluenceReport) -> None:
    from lambdaml.influence.page import influence_page

    page = influence_page(found)
    try:
        place.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror}") from error


def _print(found: InfluenceReport, dropped: list[int]) -> None:
    from lambdaml.influence.table import influence_about, influence_heading, influence_verdict, influence_words

    _format.print_text(influence_about(found))
    print()
    rows = influence_words(found)
    shown = rows if len(rows) <= 2 * _SHOWN else [*rows[:_SHOWN], dict.fromkeys(rows[0], "..."), *rows[-_SHOWN:]]
    _format.print_table(list(rows[0]), [list(row.values()) for row in shown])
    print()
    _format.print_text(influence_verdict(found))
    if found.clients[0].truth:
        alike = ", ".join(f"{found.correlation(name):.4f} for {influence_heading(name)}" for name in found.metrics)
        _format.print_text(f"Correlation of estimate and truth: {alike}.")
    if dropped:
        names = ", ".join(map(str, dropped))
        _format.print_text(f"Asked for: without {names}, within a few seconds; the log says from which commit on.")
