"""Caps in dollars, seconds and requests, for `lambdaml.train(cap=...)`; how they are kept stands in `lambdaml.engines.caps`.

    tariff = Tariff(user_book(), "s3-standard", "lambda-arm:1769")
    lambdaml.train(job, store, cap=Caps(budget_usd=2.50, deadline_s=1200, usd=priced(tariff)))

The time for which objects are stored is not in a budget: it goes on after the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.engines.caps import Spent
from lambdaml.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Caps:
    """What a run may spend. Say why it must stop by calling it.

    Attributes:
        budget_usd: US dollars of the whole run, earlier calls included, as `usd` prices them.
        deadline_s: wall time of one call.
        max_requests: of the whole run, failed ones included.
        usd: what was spent, in US dollars; needed for a budget.

    Raises:
        SettingsError: a cap is not more than zero, or a budget has no prices.
    """

    budget_usd: float | None = None
    deadline_s: float | None = None
    max_requests: float | None = None
    usd: Callable[[Spent], float] | None = None

    def __post_init__(self) -> None:
        for name in ("budget_usd", "deadline_s", "max_requests"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingsError(f"{name}: must be more than 0 (it is {value!r})")
        if self.budget_usd is not None and self.usd is None:
            raise SettingsError("a budget needs prices: give usd, for example priced(Tariff(...))")

    def __call__(self, spent: Spent) -> str | None:
        if self.max_requests is not None and spent.reading.total > self.max_requests:
            return f"one more round would bring it to {spent.reading.total:,} of {self.max_requests:,.0f} requests"
        if self.deadline_s is not None and spent.seconds > self.deadline_s:
            return f"one more round would take it to {spent.seconds:,.1f} s of {self.deadline_s:,.1f} s"
        if self.budget_usd is not None and self.usd is not None and (usd := self.usd(spent)) > self.budget_usd:
            return f"one more round would bring it to ${usd:,.6f} of ${self.budget_usd:,.6f}"
        return None


def priced(tariff: Tariff) -> Callable[[Spent], float]:
    """What a tariff bills for what was spent.

    Raises:
        SettingsError: it bills nothing at all, so that no budget can be spent.
    """
    if not tariff.bill(Quantities([3600.0], {"get": 10**6, "put": 10**6}, 2**30, 2**30, wall_s=3600.0)).usd:
        raise SettingsError(
            f"a budget makes no sense: neither functions on {tariff.platform} nor requests to {tariff.channel} cost "
            "anything; say what to bill them as, or set a deadline"
        )

    def usd(spent: Spent) -> float:
        asked = spent.reading
        wall_s = spent.run_seconds
        used = Quantities(spent.lifetimes_s, asked.requests, asked.bytes_sent, asked.bytes_received, wall_s=wall_s)
        return tariff.bill(used).usd

    return usd
