"""Why a run took its time and its money, and what would have helped most.

found = lambdaml.why("runs/digits-1")
found.verdict, found.causes[0].what, found.levers[:3]

The run is simulated again with its own measured costs (`lambdaml.cost.reporting.recorded`), then with one thing changed
at a time (`lambdaml.cost.reporting.levers`). A gain is the difference between the two simulations, at the scale of the
run itself: where the simulation takes 5 % longer than the run did, its gains are 5 % less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lambdaml.cost.billing.attribution import COST_PHASES
from lambdaml.cost.billing.bill import RunBill, bill
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.prices import prices as own_prices
from lambdaml.cost.billing.tariff import Tariff
from lambdaml.cost.reporting.levers import Change, causes, remedies
from lambdaml.cost.reporting.record import record
from lambdaml.cost.reporting.recorded import Again, RecordedRun
from lambdaml.errors import LambdaMLError, UserError
from lambdaml.log.reader import RunReader
from lambdaml.traces.recording import Recording

_LEAST = 0.01
"""A lever is worth naming if it saves this share of the time or of the money."""

_OFTEN = 2
"""A worker is said to be the last to publish if it is so this many times as often as it would be by chance."""

_TRUSTED = 0.25
"""Simulated times that are off by more than this share are said to be doubtful."""


@dataclass(frozen=True, slots=True)
class TimeShare:
    """A phase of the functions' lives, and what it took. The shares of all phases add up to 1.

    Attributes:
        name: The name of the phase.
        what: The work that is done in it.
        seconds: The seconds of all functions together.
        share: The share of all seconds of functions.
        usd: Their cost in US dollars.
    """

    name: str
    what: str
    seconds: float
    share: float
    usd: float


@dataclass(frozen=True, slots=True)
class Lever:
    """One thing that could be otherwise, and what that would save.

    Attributes:
        what: The thing, in a few words.
        change: The change, as a phrase that follows "with".
        gain_s: The seconds that the run would take less; negative if it would take more.
        gain_share: The same as a share of the run's seconds.
        gain_usd: The dollars that the run would cost less.
        hint: The option that makes the change, or where to look.
    """

    what: str
    change: str
    gain_s: float
    gain_share: float
    gain_usd: float
    hint: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Where the time and the money of a run went, and what would have helped.

    Attributes:
        run: The URL of the run.
        verdict: The answer in one or two sentences.
        seconds: The seconds from asking for functions until the last of them ended.
        simulated_s: The seconds that the run takes when it is simulated with its own costs.
        usd: The dollars that the run cost.
        platform, channel: The platform and the store whose prices count.
        parts_usd: The dollars by part of the bill.
        shares: The phases of the functions' lives. They add up to all of the functions' seconds.
        causes: The things that took time, each with all that it cost, the dearest first. They overlap: while a function waits for
            the store, another may compute.
        levers: The steps that one can take, the best first.
        notes: Sentences that say what is uncertain or unknown.
    """

    run: str
    verdict: str
    seconds: float
    simulated_s: float
    usd: float
    platform: str
    channel: str
    parts_usd: Mapping[str, float]
    shares: tuple[TimeShare, ...]
    causes: tuple[Lever, ...]
    levers: tuple[Lever, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def why(
    run: RunReader | str,
    *,
    platform: str | None = None,
    channel: str | None = None,
    prices: PriceBook | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Diagnosis:
    """Say where the time and the money of a run went, and what would have helped most.

    Args:
        run: The run, or its URL. It may still be at work; then the answer is about what is reported so far.
        platform, channel: The platform and the store whose prices count; by default those on which it ran.
        prices: The price book. Defaults to the packaged prices with your own on top of them.
        progress: Is called with the share that is done, now and then.

    Raises:
        UserError: If nothing was measured, or the run cannot be simulated.
        SettingsError: If there is no such platform or channel.
        BadObject: If an object of the run is damaged.
    """
    found = run if isinstance(run, Recording) else Recording(run)
    book = prices or own_prices()
    whole = bill(found, platform=platform, channel=channel, prices=book, rows=found.rows)
    return diagnose(found, whole, book, progress)


def diagnose(
    run: Recording, whole: RunBill, book: PriceBook, progress: Callable[[float], None] = lambda share: None
) -> Diagnosis:
    """Do the same as `why` for a run that is read already.

    Args:
        run: The run.
        whole: Its bill, for the platform and the store whose prices count.
        book: The price book.
        progress: Is called with the share that is done, now and then.

    Raises:
        UserError: If nothing was measured, or the run cannot be simulated.
    """
    rows = run.rows
    recorded = record(run, rows, run.usage(), whole.there)
    weigh = _Scale(recorded, whole, book)
    found = list(causes(recorded))
    steps = list(remedies(recorded))
    weighed: list[Lever | None] = []
    for change in (*found, *steps):
        progress(len(weighed) / (len(found) + len(steps)))
        weighed.append(weigh.lever(change))
    dear, helpful = _ordered(weighed[: len(found)]), _ordered(weighed[len(found) :])
    worth = [each for each in helpful if each.gain_share > _LEAST or each.gain_usd > _LEAST * max(whole.bill.usd, 1e-9)]
    return Diagnosis(
        run=run.url,
        verdict=_verdict(recorded.span_s, dear, worth),
        seconds=recorded.span_s,
        simulated_s=weigh.base.seconds,
        usd=whole.bill.usd,
        platform=whole.platform,
        channel=whole.channel,
        parts_usd=whole.bill.parts(),
        shares=_shares(whole),
        causes=tuple(dear),
        levers=tuple(worth),
        notes=tuple(_notes(recorded, weigh.base, whole, rows)),
    )


class _Scale:
    """Weighs changes, in seconds and dollars of the run itself."""

    def __init__(self, recorded: RecordedRun, whole: RunBill, book: PriceBook) -> None:
        self._recorded, self._whole, self._book = recorded, whole, book
        self._known: dict[int, tuple[RecordedRun, Again]] = {}
        try:
            self.base = recorded.again()
        except (LambdaMLError, NotImplementedError) as error:
            raise UserError(f"{whole.run} cannot be simulated again: {error}") from error
        billed = whole.bill.usd - whole.bill.parts().get("storage", 0.0)
        base_usd = self._usd(self.base, whole.channel)
        self._times_usd = billed / base_usd if base_usd else 0.0

    def lever(self, change: Change) -> Lever | None:
        """Return what a change would save; None if the run cannot have it."""
        whole = self._whole
        try:
            then = self._again(change.run())
            now = self.base if change.since is None else self._again(change.since)
        except (LambdaMLError, NotImplementedError):
            return None
        gain_s = self._recorded.lasting_s(now, self.base) - self._recorded.lasting_s(then, self.base)
        store = change.store if change.store and whole.channel.startswith("s3-") else whole.channel
        gain_usd = self._times_usd * (self._usd(now, whole.channel) - self._usd(then, store))
        share = gain_s / max(self._recorded.span_s, 1e-9)
        return Lever(change.what, change.sentence, gain_s, share, gain_usd, change.hint)

    def _again(self, recorded: RecordedRun) -> Again:
        if id(recorded) not in self._known:
            self._known[id(recorded)] = recorded, recorded.again()
        return self._known[id(recorded)][1]

    def _usd(self, again: Again, channel: str) -> float:
        tariff = Tariff(self._book, channel, self._whole.platform)
        return tariff.bill(again.used).usd


def _ordered(levers: Iterable[Lever | None]) -> list[Lever]:
    return sorted((each for each in levers if each is not None), key=lambda each: -each.gain_s)


def _verdict(seconds: float, dear: list[Lever], helpful: list[Lever]) -> str:
    top = dear[0]
    if top.gain_share <= _LEAST:
        return f"Nothing that was measured explains the run's {_s(seconds)}."
    first = f"{top.what.capitalize()} cost most: with {top.change}, the run would take {_s(seconds - top.gain_s)}"
    verdict = f"{first} instead of {_s(seconds)}."
    if not helpful or helpful[0].gain_s <= 0:
        return f"{verdict} No single change that can be simulated would make it shorter."
    best = helpful[0]
    if best.change == top.change:
        return verdict
    return f"{verdict} What would help most: {best.change} ({_s(best.gain_s)} less)."


def _shares(whole: RunBill) -> tuple[TimeShare, ...]:
    took = {str(item.name): (item.share.seconds, item.usd) for item in whole.phases if item.share.seconds}
    all_s = sum(seconds for seconds, _ in took.values())
    return tuple(TimeShare(name, COST_PHASES[name], each, each / all_s, usd) for name, (each, usd) in took.items())


def _notes(recorded: RecordedRun, base: Again, whole: RunBill, rows: list[dict[str, Any]]) -> Iterable[str]:
    span_s = recorded.span_s
    off = abs(base.seconds - span_s) > _TRUSTED * span_s
    doubt = ": the gains are doubtful, since something else took time, too" if off else ""
    yield f"Simulated again with its own costs, the run takes {_s(base.seconds)}; it took {_s(span_s)}{doubt}."
    worker, share = _last(rows)
    if recorded.functions == recorded.settings.workers and share > _OFTEN / recorded.settings.workers:
        yield f"Worker {worker} was the last to publish in {share:.0%} of the commits of several updates."
    if (rest_s := whole.used.wall_s - span_s) > max(1.0, 0.1 * span_s):
        yield f"Its launcher took {_s(rest_s)} beside that, for preparing, evaluating and waiting."
    if recorded.lost:
        yield (
            f"Of {recorded.lost} of its functions the last report is missing, since they were killed or are still at "
            "work; the simulation has no deaths."
        )
    lost = sum(row.get("compute_s") is None for row in rows)
    if lost:
        yield f"Of {lost:,} of {len(rows):,} updates nothing was measured."


def _last(rows: list[dict[str, Any]]) -> tuple[int, float]:
    """Return the worker that most often published last among a commit's updates, and in which share of these commits."""
    commits: dict[int, list[tuple[float, int]]] = {}
    for row in rows:
        if row.get("published_s") is not None:
            commits.setdefault(row["commit"], []).append((row["published_s"], row["worker"]))
    last = Counter(max(published)[1] for published in commits.values() if len(published) > 1)
    worker, count = max(last.items(), key=lambda item: item[1], default=(0, 0))
    return worker, count / max(1, last.total())


def _s(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"
