"""The parts of a run as objects. run.json and options name the parts; they are made here, once, and handed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lambdaml.aggregates import AGGREGATES, Aggregate
from lambdaml.algorithms import ALGORITHMS, AS_SENT, MOMENTUM, WHOLE_MODEL, Algorithm
from lambdaml.codecs import CODECS, DISPLACEMENT, Codec
from lambdaml.errors import SettingsError
from lambdaml.log.bracket import Bracket
from lambdaml.log.extra import EXTRAS
from lambdaml.log.state import KNOWN_FATES
from lambdaml.patterns import PATTERNS, Pattern
from lambdaml.schedules import SCHEDULES, Schedule, cohort_of, delay_of, in_rounds, rounds_at_once
from lambdaml.schedules.bsp import Bsp
from lambdaml.schedules.quorum import Quorum
from lambdaml.schedules.ssp import Ssp
from lambdaml.staleness import RULES, Rule
from lambdaml.tuners import TUNERS, Knob, Tuner, knob_of

if TYPE_CHECKING:
    from lambdaml.options import RunOptions
    from lambdaml.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """Holds a run's parts. None of them has a state, so all functions may share them.

    Attributes:
        schedule: The schedule.
        algorithm: The algorithm.
        codec: The codec.
        rule: The staleness rule.
        pattern: The pattern.
        bracket: The bracket of a step's sum.
        delay: The number of rounds by which the models that updates are computed from are older than need be.
        slices: The number of slices in which updates are written; 0 if they are written as a whole.
        feedback: Whether workers remember what their updates did not carry.
        remembers: Whether workers remember something between their updates.
        aggregate: The aggregate that is in the place of the mean; None for the mean.
        tuner: The tuner; None if nothing changes by itself.
        knob: The knob that the tuner turns; None without a tuner.
    """

    schedule: Schedule
    algorithm: Algorithm
    codec: Codec
    rule: Rule
    pattern: Pattern
    bracket: Bracket
    delay: int
    slices: int
    feedback: bool
    remembers: bool
    aggregate: Aggregate | None
    tuner: Tuner | None = None
    knob: Knob | None = None

    @staticmethod
    def of(names: Settings | RunOptions) -> Parts:
        """Make the parts.

        Raises:
            SettingsError: If one of them does not exist, its parameters make no sense, or two of them do not go
                together.
        """
        schedule, codec = SCHEDULES.make(names.schedule), CODECS.make(names.codec)
        algorithm, rule = ALGORITHMS.make(names.algorithm), RULES.make(names.staleness)
        named = f"algorithm {names.algorithm!r}"
        demand_fit(named, algorithm, f"staleness rule {names.staleness!r}", rule)
        if missing := unfit(codec, algorithm):
            raise SettingsError(f"codec {names.codec!r} {missing}, which {named} does not send")
        decay = names.error_feedback
        feedback = codec.feedback if decay is None else decay > 0
        pattern = PATTERNS.make(names.pattern)
        bracket = _bracket(names, pattern)
        slices = pattern.slices(names.workers)
        remembers, delay = algorithm.remembers or feedback, delay_of(schedule)
        if remembers and delay > KNOWN_FATES:
            raise SettingsError(
                f"schedule {names.schedule!r} leaves {delay} updates of each worker without a fate, and a worker that "
                f"remembers something may have {KNOWN_FATES}: choose a delay of {KNOWN_FATES} or less"
            )
        aggregate = AGGREGATES.make(names.aggregate)
        parts = Parts(schedule, algorithm, codec, rule, pattern, bracket, delay, slices, feedback, remembers, aggregate)
        if cohort_of(schedule) is not None:
            _demand_turns(names, parts)
        if AS_SENT & algorithm.gives:
            _demand_as_sent(names, parts)
        if rounds_at_once(schedule):
            _demand_own_models(names, parts)
        if algorithm.fragments > 1:
            _demand_rounds(names, parts)
        if algorithm.duals:
            _demand_consensus(names, parts)
        if names.announce_s is not None and not isinstance(schedule, Ssp):
            raise SettingsError(
                f"announce_s makes workers wait for each other's late updates, and schedule {names.schedule!r} has no lead in which "
                "they would not: use ssp:S, or leave it out"
            )
        if algorithm.ahead and not (feedback or codec.exact):
            raise SettingsError(
                f"{named} computes from what a worker has not sent yet, and without error feedback nothing is left of what codec "
                f"{names.codec!r} does not send: choose an error_feedback of more than 0, such as 1"
            )
        if aggregate is not None:
            _demand_separate(names, parts, aggregate.least)
        if names.extra is not None:
            EXTRAS.make(names.extra)
            _demand_fresh_steps(names, parts)
        if fault := pattern.misfit(parts, names.workers):
            raise SettingsError(f"pattern {names.pattern!r} {fault}")
        return parts if names.tune is None else _tuned(names, parts, names.tune)


def unfit(codec: Codec, algorithm: Algorithm) -> str:
    """Return what a codec needs and an algorithm's vectors are not, in words, or "". An inexact codec needs vectors along
    which a step is taken: what is lost of these is a part of a step, and what is lost of a mean statistic a part of the model.
    """
    if AS_SENT & algorithm.gives and not codec.exact:
        return "changes numbers, and so needs vectors along which steps are taken"
    if algorithm.duals and not codec.exact:
        return "rounds or leaves out numbers, and so needs vectors without dual variables, whose mean must be 0"
    missing = sorted(codec.needs - algorithm.gives)
    return f"needs {missing[0]}s" if missing else ""


def _demand_as_sent(names: Settings | RunOptions, parts: Parts) -> None:
    """Make sure that mean statistics, or models, arrive as they were sent.

    Raises:
        SettingsError: If the run has error feedback or a limit on norms, its rule changes vectors, or models of some workers
            would replace those of others.
    """
    named, models = f"algorithm {names.algorithm!r}", WHOLE_MODEL in parts.algorithm.gives
    rounds = in_rounds(parts.schedule, names.workers) or cohort_of(parts.schedule) is not None
    if models and (parts.delay or not (rounds or rounds_at_once(parts.schedule))):
        raise SettingsError(
            f"{named} sends models, and with schedule {names.schedule!r} those of some workers would replace what others have "
            "learnt: use bsp, cohort or groups, or leave out sends=models"
        )
    if models and names.max_update_norm is not None:
        raise SettingsError(
            f"max_update_norm limits gradients or displacements, and {named} sends models: leave it out"
        )
    if parts.feedback:
        raise SettingsError(
            f"error_feedback adds what earlier updates did not carry, and {named} sends means that stand for themselves: "
            "leave it out"
        )
    if parts.rule.transform(names.workers, 1) is not None:
        raise SettingsError(
            f"staleness rule {names.staleness!r} changes gradients or displacements, and {named} sends "
            f"{'models' if models else 'mean statistics'}"
        )


def _demand_own_models(names: Settings | RunOptions, parts: Parts) -> None:
    """Make sure that nothing needs a model that all workers share.

    Raises:
        SettingsError: If the algorithm sends something else than models, or the rule, the pattern or the bracket is about
            sums over all workers.
    """
    named = f"schedule {names.schedule!r}"
    if WHOLE_MODEL not in parts.algorithm.gives:
        raise SettingsError(
            f"{named} averages models, and algorithm {names.algorithm!r} does not send them: use local:1,sends=models"
        )
    if parts.algorithm.clocked:
        raise SettingsError(
            f"{named} has the same number of steps for all workers, which algorithm {names.algorithm!r} does not"
        )
    for what, name, plain in (("staleness rule", names.staleness, "constant"), ("pattern", names.pattern, "gather")):
        if name != plain:
            raise SettingsError(
                f"{what} {name!r} needs one model that all workers share, and {named} has none: use {plain}"
            )
    if names.lost_memory == "reset":
        raise SettingsError(f"lost_memory 'reset' travels in the log, for which {named} does not wait: leave it out")
    if parts.bracket.levels:
        raise SettingsError(
            f"bracket {names.bracket!r} is of sums over all workers, and {named} has none: leave it out"
        )
    parts.schedule.grouping(names.workers, 0)  # type: ignore[attr-defined]


def _demand_rounds(names: Settings | RunOptions, parts: Parts) -> None:
    """Make sure that all workers of a run send the same fragment at a time.

    Raises:
        SettingsError: If the schedule or the rule does not go with fragments.
    """
    named, count = f"algorithm {names.algorithm!r}", parts.algorithm.fragments
    if not in_rounds(parts.schedule, names.workers):
        raise SettingsError(
            f"{named} sends its fragments in turn, and schedule {names.schedule!r} has no rounds in which all workers send "
            "the same one: use bsp or pipeline"
        )
    if parts.delay >= count:
        raise SettingsError(
            f"schedule {names.schedule!r} still exchanges a fragment when its next turn comes with {named}: take more than "
            f"{parts.delay} fragments"
        )
    if parts.rule.transform(names.workers, 1) is not None:
        raise SettingsError(
            f"staleness rule {names.staleness!r} keeps vectors of the whole model, and {named} sends fragments of it"
        )


def _demand_turns(names: Settings | RunOptions, parts: Parts) -> None:
    """Make sure that workers of a run of cohorts can take turns in its slots.

    Raises:
        SettingsError: If the algorithm needs the same worker in a slot each time.
    """
    algorithm = parts.algorithm
    why = ""
    if algorithm.summands > 1:
        why = "adds up the gradients of several workers"
    elif algorithm.clocked:
        why = "compares the speeds of workers"
    elif algorithm.fragments > 1:
        why = "sends parts of the model in turn"
    elif algorithm.duals:
        why = "needs every worker in each round"
    if parts.feedback and names.staleness.partition(":")[0] != "constant":
        raise SettingsError(
            f"staleness rule {names.staleness!r} weighs updates, and with schedule {names.schedule!r} a worker cannot know later "
            f"how codec {names.codec!r} counted: use constant, or no error feedback"
        )
    if why:
        raise SettingsError(
            f"algorithm {names.algorithm!r} {why}, and with schedule {names.schedule!r} other workers take part in each round"
        )


def _demand_consensus(names: Settings | RunOptions, parts: Parts) -> None:
    """Make sure that each step moves the model by the mean of what all workers sent, exactly.

    Raises:
        SettingsError: If the schedule, the codec or the rule does not go with dual variables.
    """
    named = f"algorithm {names.algorithm!r}"
    if parts.delay or not in_rounds(parts.schedule, names.workers):
        raise SettingsError(
            f"{named} needs the newest model and an update of every worker in each round, which schedule {names.schedule!r} "
            "does not wait for: use bsp"
        )
    if parts.rule.transform(names.workers, 1) is not None:
        raise SettingsError(f"staleness rule {names.staleness!r} takes other steps than to the mean that {named} needs")


def _demand_separate(names: Settings | RunOptions, parts: Parts, least: int) -> None:
    """Make sure that an aggregate gets the whole update of each single worker, and so many of them for a step.

    Raises:
        SettingsError: If it does not.
    """
    named = f"aggregate {names.aggregate!r}"
    algorithm, count = parts.algorithm, parts.schedule.needs(names.workers)
    if rounds_at_once(parts.schedule):
        raise SettingsError(f"{named} needs one model that all workers share, and schedule {names.schedule!r} has none")
    if count < least:
        raise SettingsError(
            f"{named} needs {least} updates or more for a step, and schedule {names.schedule!r} takes {count} of "
            f"{names.workers} worker{'s' if names.workers > 1 else ''}"
        )
    if isinstance(parts.schedule, Quorum) and parts.schedule.late == "weight":
        raise SettingsError(
            f"{named} counts each worker once, and schedule {names.schedule!r} may take two updates of one for a step: use "
            f"quorum:{parts.schedule.k}"
        )
    why = ""
    if AS_SENT & algorithm.gives or algorithm.duals:
        why = "needs the mean of what workers send"
    elif algorithm.adds:
        why = "adds up what workers send"
    elif algorithm.summands > 1:
        why = "sends sums over several workers"
    if why:
        raise SettingsError(f"algorithm {names.algorithm!r} {why}, and {named} takes something else in its place")
    if parts.codec.feedback:
        raise SettingsError(
            f"codec {names.codec!r} leaves out numbers, and {named} compares whole updates: use fp32, bf16, fp16 or int8"
        )
    if names.staleness != "constant":
        raise SettingsError(
            f"staleness rule {names.staleness!r} weighs or changes updates, and {named} takes each as it is: use constant"
        )
    if names.pattern != "gather":
        raise SettingsError(f"pattern {names.pattern!r} adds up updates, and {named} needs each of them: use gather")
    if parts.bracket.levels:
        raise SettingsError(f"bracket {names.bracket!r} is of sums, and {named} makes none: leave it out")


def _demand_fresh_steps(names: Settings | RunOptions, parts: Parts) -> None:
    """Make sure that workers take local steps from the run's model in each round, and remember nothing.

    Raises:
        SettingsError: If they do not.
    """
    named, algorithm = f"extra {names.extra!r}", parts.algorithm
    why = ""
    if DISPLACEMENT not in algorithm.gives:
        why = "sends no displacements of local steps"
    elif algorithm.ahead:
        why = "computes from a worker's own model"
    elif algorithm.remembers:
        why = "has workers that remember something"
    if why:
        raise SettingsError(f"algorithm {names.algorithm!r} {why}, and {named} belongs to FedAvg: use local:H")
    if parts.feedback:
        raise SettingsError(
            f"error feedback makes workers remember what codec {names.codec!r} left out, and {named} belongs to "
            "workers that remember nothing: use fp32, bf16, fp16 or int8"
        )
    if parts.delay or not isinstance(parts.schedule, Bsp):
        raise SettingsError(
            f"{named} belongs to rounds, which schedule {names.schedule!r} has not: use bsp or cohort:K"
        )


def demand_clients(settings: Settings, clients: Sequence[int]) -> None:
    """Make sure that the slots of these clients can stay empty in a run: there are such clients and others, its commits are
    rounds, and nothing but the mean of updates rests on any of them.

    Raises:
        SettingsError: If they cannot.
    """
    parts, named = Parts.of(settings), "a client that is left out"
    for client in clients:
        if client not in range(settings.sharers):
            raise SettingsError(
                f"there is no client {client}: the run has {settings.sharers}, from 0 to {settings.sharers - 1}"
            )
    if len(set(clients)) == settings.sharers:
        raise SettingsError(f"all {settings.sharers} clients would be left out: leave at least one")
    if parts.delay or not isinstance(parts.schedule, Bsp):
        raise SettingsError(
            f"{named} leaves its slot of a round empty, and schedule {settings.schedule!r} has none: only bsp and cohort:K have"
        )
    if settings.tune is not None:
        raise SettingsError(f"tuner {settings.tune!r} lets all workers judge models, and {named} judges none")
    for what, name, plain in (("pattern", settings.pattern, "gather"), ("aggregate", settings.aggregate, "mean")):
        if name != plain:
            raise SettingsError(f"{what} {name!r} needs the updates of all workers, and {named} has none: use {plain}")
    if parts.remembers or parts.algorithm.summands > 1:
        why = (
            "adds up gradients of several workers"
            if parts.algorithm.summands > 1
            else "has workers that remember something"
        )
        what = f"codec {settings.codec!r}" if parts.feedback else f"algorithm {settings.algorithm!r}"
        raise SettingsError(
            f"{what} {why}, and {named} has none of that: use local:H or gradient, without error feedback"
        )


def _tuned(names: Settings | RunOptions, parts: Parts, spec: str) -> Parts:
    """Return the parts with their tuner and its knob.

    Raises:
        SettingsError: If there is nothing to turn, or not every function could follow each turn.
    """
    tuner, named = TUNERS.make(spec), f"tuner {spec!r}"
    knob = knob_of(parts.codec) or knob_of(parts.algorithm)
    if names.schedule != "bsp":
        raise SettingsError(
            f"{named} needs rounds in which all workers take part, and schedule {names.schedule!r} has others: use bsp"
        )
    if names.pattern != "gather":
        raise SettingsError(f"{named} needs each update, and pattern {names.pattern!r} adds them up: use gather")
    if knob is None:
        raise SettingsError(
            f"{named} has nothing to turn: neither codec {names.codec!r} nor algorithm {names.algorithm!r} has a knob; use the "
            "codec significant:1.1,decay=none, or local:H"
        )
    if DISPLACEMENT not in parts.algorithm.gives:
        raise SettingsError(
            f"{named} judges workers' own models, and algorithm {names.algorithm!r} gives them none: use local:H"
        )
    if names.workers < 2:
        raise SettingsError(f"{named} compares workers, and there is {names.workers}: use 2 or more")
    return replace(parts, tuner=tuner, knob=knob)


def _bracket(names: Settings | RunOptions, pattern: Pattern) -> Bracket:
    """Return the bracket that was asked for, or that the pattern needs.

    Raises:
        SettingsError: If it is no bracket, or not the pattern's.
    """
    needed = pattern.bracket(names.workers)
    try:
        asked = Bracket.parse(names.bracket) if names.bracket is not None else needed or Bracket()
    except ValueError as error:
        raise SettingsError(f"bracket: {error}") from None
    if needed is not None and asked != needed:
        raise SettingsError(
            f"pattern {names.pattern!r} adds up {names.workers} workers' updates in the bracket {needed}, not {asked}"
        )
    return asked


def demand_fit(one: str, given: Algorithm, other: str, rule: Rule) -> None:
    """Make sure that two parts go together: the algorithm gives what the rule needs, and only one adds momentum.

    Args:
        one, other: The names of the parts in a message.

    Raises:
        SettingsError: If they do not.
    """
    _demand_given(one, given, other, rule.needs)
    if MOMENTUM in given.gives & rule.gives:
        raise SettingsError(f"{one} and {other} both add momentum: choose one of them")


def _demand_given(one: str, given: Algorithm, other: str, needs: frozenset[str]) -> None:
    missing = sorted(needs - given.gives)
    if missing:
        raise SettingsError(f"{other} needs {missing[0]}s, which {one} does not send")
