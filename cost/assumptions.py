"""What a plan rests on: each number with its unit, and whether it was measured, given or assumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from lambdaml.cost.outlook import Goal
from lambdaml.cost.prices import PriceBook
from lambdaml.cost.profile import MEASURED, Profile
from lambdaml.worlds.platform import Platform

if TYPE_CHECKING:
    from lambdaml.cost.candidates import Candidate
    from lambdaml.cost.plan import Wishes

Mark = Literal["measured", "given", "assumed"]


@dataclass(frozen=True, slots=True)
class Assumption:
    """One input of a plan."""

    what: str
    value: float | str
    unit: str
    mark: Mark
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def assumptions(profile: Profile, wishes: Wishes, goal: Goal, book: PriceBook, best: Candidate) -> Iterator[Assumption]:
    """Those of a plan; platform and prices are the best candidate's."""
    here = f"profile of {profile.measured_on}"
    step, job = profile.step_time, profile.job
    yield Assumption("gradient of a batch", f"{step.step_s(job.batch_size):.4g}", "s", "measured", here)
    yield Assumption("its spread, p95 over p50", f"{step.p95_over_p50:.2f}", "", "measured", here)
    yield Assumption("optimizer step", f"{profile.optimizer_s:.3g}", "s", "measured", here)
    for name, codec in profile.codecs.items():
        yield Assumption(f"update, {name}", codec.update_bytes, "bytes", "measured", here)
    yield Assumption("peak memory of a function", round(profile.memory.peak_mb(job.batch_size)), "MB", "measured", here)
    if goal.convergence is not None:
        yield from _learning(profile, goal, here)
    else:
        yield Assumption("length", wishes.epochs or 0.0, "epochs", "given", "")
    if profile.startup is not None:
        yield Assumption("import of torch here", profile.startup.import_s, "s", "measured", here)
        yield Assumption("the job's own start", profile.startup.job_s, "s", "measured", here)
    measured = best.channel == MEASURED and profile.store is not None
    yield Assumption(
        f"latency and bandwidth of {best.channel}",
        profile.store.url if measured and profile.store else "preset",
        "",
        "measured" if measured else "assumed",
        here if measured else "lambdaml.storage.latency.PRESETS",
    )
    if wishes.left < 1:
        yield Assumption(
            "share of the way that is left", f"{wishes.left:.3g}", "", "assumed", "steps gone of the plan's"
        )
    yield from _platform(Platform.parse(best.platform))
    yield Assumption("stragglers", wishes.stragglers, "", "given" if wishes.stragglers != "none" else "assumed", "")
    yield Assumption("functions compute as fast as this machine's core", 1.0, "", "assumed", profile.machine.processor)
    for place in (best.platform.partition(":")[0], best.channel.partition(":")[0]):
        for item, price in book.place(place).items():
            yield Assumption(f"price, {place}/{item}", price.usd, f"USD per {price.unit}", "given", price.origin)


def _learning(profile: Profile, goal: Goal, here: str) -> Iterator[Assumption]:
    assert goal.convergence is not None
    runs = len(profile.pilot)
    yield Assumption("steps to the target", f"{runs} pilots", "", "measured", f"{here}, {profile.target}")
    yield Assumption("their spread, sigma of log steps", f"{goal.convergence.sigma:.3f}", "", "measured", here)
    yield Assumption("staleness at which the target was missed", goal.convergence.tolerance, "steps", "measured", here)
    if profile.noise is not None and profile.noise.samples is not None:
        yield Assumption("gradient noise scale", round(profile.noise.samples), "samples", "measured", here)
    if profile.coherence is not None:
        least = "at least " if profile.coherence.tolerance_at_least else ""
        tolerance = f"{least}{profile.coherence.tolerance_steps:.3g}"
        yield Assumption("staleness that halves a step's worth", tolerance, "steps", "measured", f"{here}, coherence")
    yield Assumption("convergence with every codec is that of fp32", "", "", "assumed", "")


def _platform(platform: Platform) -> Iterator[Assumption]:
    source = "lambdaml.worlds.platform.PLATFORMS"
    cold, p99 = platform.cold_start_s
    yield Assumption(f"cold start on {platform.name}", f"{cold:g}, p99 {p99:g}", "s", "assumed", source)
    if platform.lifetime_s < float("inf"):
        yield Assumption("lifetime of a function", platform.lifetime_s, "s", "assumed", source)
    if platform.preemption_mean_s < float("inf"):
        yield Assumption("mean time to a preemption", platform.preemption_mean_s, "s", "assumed", source)
