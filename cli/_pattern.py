"""Chooses the pattern for `train --pattern auto`, which measures the job and the store, and for `simulate`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lambdaml.cli._interrupt import interruptible
from lambdaml.cli._progress import Share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambdaml.cost.planning.pattern_choice import PatternChoice
    from lambdaml.options import RunOptions
    from lambdaml.simulation.stub_replica import Costs

STORE_S = 1.0
"""The seconds for measuring small requests."""


def chosen_pattern(job: str, store: str, options: RunOptions) -> str:
    """Measure the job and the store, choose the pattern for a run on this machine, and say so in one line.

    Args:
        store: The place of the run.

    Raises:
        UserError: If the options make no sense with any pattern, or the job or the store cannot be used.
    """
    from lambdaml.cost.billing.bill import HERE, channel_of
    from lambdaml.cost.billing.prices import prices
    from lambdaml.cost.billing.tariff import Tariff
    from lambdaml.cost.planning.exchange import Route
    from lambdaml.cost.planning.pattern_choice import PLAINEST, choose_pattern, traffic_of
    from lambdaml.cost.profiling.stores import measure_store
    from lambdaml.engines import functions_for
    from lambdaml.parts import Parts
    from lambdaml.simulation.channel import CHANNELS, Channel
    from lambdaml.training.asked import demand_workers

    plain = replace(options, pattern=PLAINEST)
    parts = Parts.of(plain)  # refuses parts that do not go together before anything is measured
    demand_workers(plain)
    with Share(f"measuring {job} and its store") as share, interruptible(share.stop, share.close):
        costs, parameters = _measured(job, plain)
        facts, *_ = measure_store(store, costs.update_bytes, STORE_S, share)
    billed_as = channel_of(facts.url)
    channel: Channel = facts.channel(CHANNELS.get(billed_as))
    count = functions_for(options.workers, options.functions)
    moved = costs.update_bytes, 4 * parameters / parts.algorithm.fragments, costs.apply_update_s
    traffic = traffic_of(plain, count, *moved, compute_s=costs.step_s)
    choice = choose_pattern(plain, traffic, Route(channel), Tariff(prices(), billed_as, HERE))
    print(choice, file=sys.stderr)
    return choice.pattern


def _measured(job: str, options: RunOptions) -> tuple[Costs, int]:
    """Return what the job's updates take, and its number of parameters."""
    from lambdaml.simulation.costs import measure_costs
    from lambdaml.training.asked import resolve_job, settings_for
    from lambdaml.training.one_thread import OneThread

    def work() -> tuple[Costs, int]:
        job_settings, instance = resolve_job(job, dict(options.args))
        settings = settings_for(instance, job_settings, options)
        return measure_costs(instance, settings), settings.parameters

    with OneThread() as compute:
        return compute.submit(work).result()


def simulated_choice(asked: Mapping[str, Any], schedule: str, costs: Costs) -> PatternChoice:
    """Return the pattern that would be chosen for a simulation.

    Args:
        asked: The options of the simulation.
    """
    from lambdaml.cost.billing.prices import prices
    from lambdaml.cost.billing.tariff import Tariff
    from lambdaml.cost.planning.exchange import Route
    from lambdaml.cost.planning.pattern_choice import choose_pattern, traffic_of
    from lambdaml.options import RunOptions
    from lambdaml.simulation.channel import Channel
    from lambdaml.simulation.costs import assumed
    from lambdaml.simulation.platform import Platform

    names = ("workers", "algorithm", "codec", "error_feedback", "staleness", "bracket")
    options = RunOptions(schedule=schedule, **{name: asked[name] for name in names})
    platform = Platform.parse(asked["platform"])
    dense_bytes = costs.update_bytes * assumed().update_bytes / assumed(options.codec).update_bytes
    traffic = traffic_of(
        options,
        asked["functions"] or options.workers,
        costs.update_bytes,
        dense_bytes,
        costs.apply_update_s,
        compute_s=costs.step_s,
    )
    route = Route(Channel.parse(asked["channel"]), platform.bandwidth_bytes_per_s)
    return choose_pattern(options, traffic, route, Tariff(prices(), asked["channel"], asked["platform"]))
