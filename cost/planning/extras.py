"""The price of what is measured beside updates: compute, requests, and storage, which goes on for as long as it is kept.

`lambdaml.log.extra` says what that is. Nothing but the updates' own compute depends on it, so a plan is made without it, and
its price is added for the plan's choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lambdaml.codecs import Layout
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import MONTH_S, Quantities, Tariff
from lambdaml.cost.planning.candidates import SearchSpace
from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.planner import billed_store
from lambdaml.cost.profiling.profile import Profile
from lambdaml.log.extra import EXTRAS
from lambdaml.options import RunOptions
from lambdaml.parts import Parts


@dataclass(frozen=True, slots=True)
class ExtraPrice:
    """The price of what is measured beside the updates of a run.

    Attributes:
        name: The name of what is measured, as `train` takes it.
        objects: The number of objects, each of which is one request.
        object_bytes: The size of an object.
        update_s: The seconds that it takes a function beside each update.
        compute_usd: The US dollars of these seconds.
        requests_usd: The US dollars of the requests, and of the bytes that are sent.
        month_usd: The US dollars of a month of storage.
    """

    name: str
    objects: int
    object_bytes: int
    update_s: float
    compute_usd: float
    requests_usd: float
    month_usd: float

    @property
    def size_bytes(self) -> int:
        """The size of all objects."""
        return self.objects * self.object_bytes


def space_for_extra(space: SearchSpace, name: str) -> SearchSpace:
    """Return the candidates with which this can be measured. Unless schedules and codecs are named, they have `bsp` and `fp32`.

    Raises:
        SettingsError: If it does not go with one of those that are named, or with the algorithm.
    """
    space = replace(space, schedules=space.schedules or ("bsp",), codecs=space.codecs or ("fp32",))
    for schedule in space.schedules:
        for algorithm in space.algorithm_names:
            for codec in space.codecs:
                Parts.of(RunOptions(schedule=schedule, algorithm=algorithm, codec=codec, extra=name))
    return space


def extra_price(name: str, found: Estimate, profile: Profile, book: PriceBook) -> ExtraPrice:
    """Return the price for the median run of an estimate.

    Args:
        name: The name of what is measured, as `train` takes it.
    """
    asked, candidate, samples = EXTRAS.make(name), found.candidate, profile.job.samples
    steps, own = candidate.batches(samples), samples // candidate.workers
    object_bytes = asked.size_bytes(steps, own, Layout.flat(profile.job.parameters))
    passes_s = profile.step_time.step_s(min(asked.samples, own)) + profile.step_time.step_s(1)
    update_s = steps * passes_s / candidate.platform.speed()
    objects, functions = round(found.steps * found.group), max(1, found.functions)
    tariff = Tariff(book, billed_store(candidate, profile), candidate.platform.spec, candidate.platform.memory_mb)
    computing = tariff.bill(Quantities([objects * update_s / functions] * functions)).parts()
    put = tariff.bill(Quantities(requests={"create": objects}, bytes_sent=objects * object_bytes))
    kept = tariff.bill(Quantities(stored_byte_s=objects * object_bytes * MONTH_S)).parts()
    return ExtraPrice(name, objects, object_bytes, update_s, computing["functions"], put.usd, kept["storage"])
