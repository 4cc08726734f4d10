"""Prints the history of a fault seed line by line, and says whether the promises held."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lambdaml.cli import _format

if TYPE_CHECKING:
    from lambdaml.events import Event
    from lambdaml.simulation.faults import FaultScenario


def play_seed(seed: int, schedule: str | None, *, as_json: bool) -> int:
    """Play a seed's scenario, print it, judge the run that it leaves, and return the exit status."""
    from lambdaml.schedules import SCHEDULES
    from lambdaml.simulation.faults import FaultScenario, Verdict, play
    from lambdaml.simulation.judge import judge

    if schedule is not None:
        SCHEDULES.make(schedule)
    scenario = FaultScenario.draw(seed, schedule)
    events: list[tuple[float, Event]] = []
    virtual, end = play(scenario, lambda now, event: events.append((now, event)))
    verdict = Verdict(seed, scenario, judge(virtual, end))
    if as_json:
        lines = [{"s": now, **event.to_dict()} for now, event in events]
        facts = {"seed": seed, "scenario": asdict(scenario), "events": lines}
        _format.print_json({**facts, "end": end, "broken": verdict.broken, "command": verdict.command})
    else:
        _format.print_pairs(_misfortunes(scenario))
        print()
        for now, event in events:
            print(f"{now:10.3f} s  {event.function:5}  {_words(event)}")
        print()
        for broken in verdict.broken:
            print(f"broken: {broken}")
        print(f"{len(verdict.broken)} broken" if verdict.broken else "every promise held")
    return 1 if verdict.broken else 0


def _misfortunes(scenario: FaultScenario) -> Iterator[tuple[str, str]]:
    yield f"seed {scenario.seed}", f"{scenario.schedule}, {scenario.workers} workers on {scenario.functions} functions"
    yield (
        "length",
        f"{scenario.steps} steps, a snapshot every {scenario.snapshot_every}, leases of {scenario.lease_s:g} s",
    )
    requests = [f"{kind} {_percent(rate)}" for kind, rate in scenario.rates.items() if rate]
    if scenario.damage:
        requests.append(f"reads damaged {_percent(scenario.damage)}")
    began, ended = scenario.storm
    if ended > began:
        requests.append(f"a storm of 503 from {began:.1f} to {ended:.1f} s")
    yield "requests", ", ".join(requests) or "all are answered"
    lives = {
        "killed": scenario.crash,
        "frozen": scenario.freeze,
        "doubled": scenario.spare,
        "told that the living are dead": scenario.lie,
        "short": scenario.short,
    }
    functions = [f"{what} {_percent(share)}" for what, share in lives.items() if share]
    if scenario.skew_s:
        functions.append(f"clocks off by up to {scenario.skew_s:.0f} s")
    if scenario.uneven:
        functions.append("steps of unequal length")
    yield "functions", ", ".join(functions) or "nothing befalls them"
    updates = {"must be rejected": scenario.bad, "are damaged for good": scenario.spoiled}
    yield (
        "updates",
        ", ".join(f"{_percent(share)} {what}" for what, share in updates.items() if share) or "all are sound",
    )
    yield "calm", f"after {scenario.calm_s:.0f} s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _words(event: Event) -> str:
    """Describe an event for people; an event that is not known here shows its fields."""
    if event.event == "started":
        return "; ".join(["starts", *_doom(event.fault_plan or {})])
    if event.event == "ended":
        outcomes = {"done": "is done", "left": "leaves", "killed": "is killed"}
        return outcomes.get(event.outcome, f"ends: {event.outcome}")
    if event.event == "takeover":
        return f"takes over worker {event.worker}, which fell silent"
    if event.event == "waiting":
        return f"waits for worker {event.worker} since {_format.duration(event.seconds)}"
    if event.event == "commit":
        reasons: Counter[str] = Counter(event.refused)
        refused = [f"{reason} ({count})" for reason, count in reasons.items()]
        stale = ", ".join(str(steps) for steps in event.staleness)
        took = [f"applied {len(event.staleness)} (staleness {stale})"] if stale else []
        return f"commit {event.commit} makes version {event.version}: {', '.join([*took, *refused])}"
    if event.event == "snapshot":
        return f"wrote the snapshot of version {event.version}"
    if event.event == "fault":
        return f"{event.op} {event.key}: {event.fault}"
    fields = event.to_dict().items()
    return ", ".join([event.event, *(f"{name} {value}" for name, value in fields if name not in ("event", "function"))])


def _doom(plan: Mapping[str, Any]) -> Iterator[str]:
    """Describe what a function's fault plan holds for its life."""
    if plan.get("last_turn") is not None:
        yield f"will be killed in turn {plan['last_turn']}"
    if plan.get("freeze_s") is not None:
        after_s, for_s = plan["freeze_s"]
        yield f"will stand still after {after_s:.1f} s for {for_s:.1f} s"
    if plan.get("lifetime_s", math.inf) < math.inf:
        yield f"may live {plan['lifetime_s']:.1f} s"
    if abs(plan.get("skew_s", 0.0)) >= 0.1:
        yield f"its clock is off by {plan['skew_s']:.1f} s"
    if plan.get("dead"):
        yield f"is told that {', '.join(plan['dead'])} died"
