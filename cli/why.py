"""The verb `lambdaml why`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lambdaml.cli import _format, _options

if TYPE_CHECKING:
    from lambdaml import Diagnosis, Lever

_SHOWN = 8
_LEAST = 0.01
"""Causes of a smaller share of the time are left out; JSON has all."""


def why(
    run: _options.Run,
    platform: _options.BilledAs = None,
    store_as: _options.StoreAs = None,
    prices: _options.Prices = None,
    as_json: _options.Json = False,
) -> int:
    """Say where a run's time and money went, and what would have helped most.

    The run is simulated again with its own measured costs, and with one thing changed at a time.
    """
    import lambdaml
    from lambdaml.cli._progress import Share

    book = lambdaml.prices(*([prices] if prices else []))
    with Share(f"simulating {_format.shown(run)} again") as share:
        found = lambdaml.why(run, platform=platform, channel=store_as, prices=book, progress=lambda done: share(done))
    if as_json:
        _format.print_json(found.to_dict())
    else:
        _print(found)
    return 0


def _print(found: Diagnosis) -> None:
    _format.print_text(found.verdict)
    print()
    headings = ["phase", "seconds", "share", *_usd_heading(found), "of all functions together"]
    _format.print_table(headings, _phases(found), left=["phase", "of all functions together"])
    print()
    causes = [cause for cause in found.causes if cause.gain_share >= _LEAST]
    headings = ["what took time", "cost", "share", *_usd_heading(found), "it would be gone with"]
    _format.print_table(headings, _rows(found, causes), left=["what took time", "it would be gone with"])
    print()
    headings = ["what would help", "gain", "share", *_usd_heading(found), "with"]
    _format.print_table(headings, _rows(found, found.levers[:_SHOWN]), left=["what would help", "with"])
    print()
    for lever in found.levers[:3]:
        _format.print_text(f"{lever.change}: {lever.hint}", " " * 6, "try   ")
    for note in found.notes:
        _format.print_text(note, " " * 6, "note  ")


def _phases(found: Diagnosis) -> Iterator[list[str]]:
    for each in found.shares:
        usd = [f"{each.usd:.6f}"] if found.usd else []
        yield [each.name, f"{each.seconds:,.2f}", f"{each.share:.0%}", *usd, each.what]


def _rows(found: Diagnosis, levers: Sequence[Lever]) -> Iterator[list[str]]:
    for each in levers:
        usd = [f"{each.gain_usd:.6f}"] if found.usd else []
        gain = f"{each.gain_s:.2g} s" if abs(each.gain_s) < 1 else f"{each.gain_s:,.1f} s"
        yield [each.what, gain, f"{each.gain_share:.0%}", *usd, each.change]


def _usd_heading(found: Diagnosis) -> list[str]:
    return ["USD"] if found.usd else []
