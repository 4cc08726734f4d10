"""What a run that goes on has cost so far, as far as it was seen, beside its plan and its caps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lambdaml.cost.billing.bill import HERE, channel_of
from lambdaml.cost.billing.caps import Caps
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.prices import prices as own_prices
from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.cost.profiling.profile import MEASURED
from lambdaml.engines.invoke import Work
from lambdaml.log.launches import Launch
from lambdaml.log.reader import RunReader
from lambdaml.traces.seen import Seen


@dataclass(frozen=True, slots=True)
class Against:
    """A quantity beside the plan and the cap on it.

    Attributes:
        used: The quantity so far.
        planned: The quantity that the plan expects of the whole run, or None if there is no plan.
        cap: The most that it may become, or None if nothing bounds it.
    """

    used: float
    planned: float | None = None
    cap: float | None = None


@dataclass(frozen=True, slots=True)
class Spending:
    """What a run has used so far by the latest reports of its functions, which are up to 15 s old.

    Attributes:
        platform, channel: The platform and the store as which it is billed.
        usd: The US dollars of functions and requests.
        requests: The requests of functions and launchers.
        seconds: The seconds since the first log entry.
        view_usd: The US dollars of the requests that looking at it took.
    """

    platform: str
    channel: str
    usd: Against
    requests: Against
    seconds: Against
    view_usd: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class Purse:
    """Bills what is seen of a run: as its budget does, or else as its plan does, or else as what it runs on.

    Args:
        run: The run. If it was launched on Lambda, its caps are read, which takes two requests.
        prices: The price book; by default the packaged prices with your own on top of them.
    """

    def __init__(self, run: RunReader, prices: PriceBook | None = None) -> None:
        self._book = prices or own_prices()
        self._plan = run.settings.planned or {}
        found = Launch.newest(run.store)
        cap = Work.of_event(found[1]).cap if found else None
        self._caps = Caps() if cap is None else Caps.from_dict(cap)
        planned = str(self._plan.get("channel", MEASURED))
        self._channel = channel_of(run.url) if planned == MEASURED else planned.partition(":")[0]

    def spending(self, seen: Seen) -> Spending:
        """Return what the run has spent, without a request."""
        platform = self._plan.get("platform") or seen.platform or HERE
        tariff = self._caps.tariff or Tariff(self._book, self._channel, platform)
        reading, asked, plan, caps = seen.reading, seen.asked, self._plan, self._caps
        used = Quantities(
            seen.lifetimes_s, reading.requests, reading.bytes_sent, reading.bytes_received, wall_s=seen.elapsed_s
        )
        view = Quantities((), asked.requests, asked.bytes_sent, asked.bytes_received)
        return Spending(
            platform=tariff.platform,
            channel=tariff.channel,
            usd=Against(tariff.bill(used).usd, plan.get("usd"), caps.budget_usd),
            requests=Against(reading.total, plan.get("requests"), caps.max_requests),
            seconds=Against(seen.elapsed_s, plan.get("seconds"), caps.deadline_s),
            view_usd=tariff.bill(view).usd,
        )
