"""Caps in dollars, seconds and requests, for `lambdaml.train(cap=...)`; `lambdaml.engines.caps` says how they are kept.

    tariff = lambdaml.Tariff(lambdaml.prices(), "s3-standard", "lambda-arm:1769")
    lambdaml.train(job, store, cap=lambdaml.Caps(budget_usd=2.50, deadline_s=1200, tariff=tariff))

A budget does not count the storage of objects, which continues after the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.engines.caps import Spent
from lambdaml.errors import SettingsError

_AN_HOUR = Quantities([3600.0], {"get": 10**6, "put": 10**6}, 2**30, 2**30, wall_s=3600.0)


@dataclass(frozen=True, slots=True)
class Caps:
    """The limits on what a run may spend. A call returns the reason why the run must stop, or None.

    Attributes:
        budget_usd: The US dollars of the whole run as the tariff bills them, including earlier calls.
        deadline_s: The seconds that one call of `train` or `resume` may take.
        max_requests: The requests of the whole run, including failed ones.
        tariff: The prices of functions and requests, which a budget needs.

    Raises:
        SettingsError: If a cap is not more than zero, or a budget has no prices or only prices of zero.
    """

    budget_usd: float | None = None
    deadline_s: float | None = None
    max_requests: float | None = None
    tariff: Tariff | None = None

    def __post_init__(self) -> None:
        for name in ("budget_usd", "deadline_s", "max_requests"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingsError(f"{name}: must be more than 0 (it is {value!r})")
        if self.budget_usd is None:
            return
        if self.tariff is None:
            raise SettingsError("a budget needs prices: give a tariff, for example Tariff(prices(), STORE, PLATFORM)")
        if not self.tariff.bill(_AN_HOUR).usd:
            raise SettingsError(
                f"a budget makes no sense: neither functions on {self.tariff.platform} nor requests to "
                f"{self.tariff.channel} cost anything; say what to bill them as, or set a deadline"
            )

    def __call__(self, spent: Spent) -> str | None:
        if self.max_requests is not None and spent.reading.total > self.max_requests:
            return f"one more round would bring it to {spent.reading.total:,} of {self.max_requests:,.0f} requests"
        if self.deadline_s is not None and spent.seconds > self.deadline_s:
            return f"one more round would take it to {spent.seconds:,.1f} s of {self.deadline_s:,.1f} s"
        if self.budget_usd is not None and self.tariff is not None:
            usd = self.tariff.bill(_used(spent)).usd
            if usd > self.budget_usd:
                return f"one more round would bring it to ${usd:,.6f} of ${self.budget_usd:,.6f}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the caps as plain values, prices included."""
        tariff = None if self.tariff is None else self.tariff.to_dict()
        return {
            "budget_usd": self.budget_usd,
            "deadline_s": self.deadline_s,
            "max_requests": self.max_requests,
            "tariff": tariff,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Caps:
        """Return the caps that `to_dict` wrote."""
        tariff = record["tariff"]
        return cls(**{**record, "tariff": None if tariff is None else Tariff.from_dict(tariff)})


def _used(spent: Spent) -> Quantities:
    reading = spent.reading
    moved = reading.bytes_sent, reading.bytes_received
    return Quantities(spent.lifetimes_s, reading.requests, *moved, wall_s=spent.run_seconds)
