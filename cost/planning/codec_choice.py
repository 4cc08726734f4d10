"""The codecs that a plan may propose, and why not the others.

A codec that needs error feedback is proposed only if pilots reached the target with it. Any other one is proposed
without a pilot too, and is then assumed to train as plain updates do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lambdaml.algorithms import ALGORITHMS
from lambdaml.codecs import CODECS
from lambdaml.cost.planning.pilot import PATIENCE, PLAIN, PilotRun
from lambdaml.cost.profiling.profile import Profile
from lambdaml.errors import SettingsError
from lambdaml.options import RunOptions
from lambdaml.parts import Parts, unfit


def proposed_codecs(profile: Profile, algorithm: str, to_target: bool) -> list[str]:
    """Return the codecs that a plan proposes with this algorithm.

    Args:
        to_target: Whether a target ends the run. If epochs do, it is not known what a codec leaves out is worth.
    """
    return [
        spec for spec in profile.codecs if _fits(spec, algorithm) and not _doubt(profile, algorithm, spec, to_target)
    ]


def left_out(profile: Profile, algorithm: str, to_target: bool) -> Iterator[str]:
    """Yield a sentence for each reason why codecs of the profile are not proposed with this algorithm."""
    doubts: dict[str, list[str]] = {}
    for spec in profile.codecs:
        if _fits(spec, algorithm) and (doubt := _doubt(profile, algorithm, spec, to_target)):
            doubts.setdefault(doubt, []).append(spec)
    for doubt, specs in doubts.items():
        yield f"{', '.join(specs)} with {algorithm}: {doubt}"


def fitting_codecs(asked: Sequence[str], algorithm: str, algorithms: Sequence[str]) -> list[str]:
    """Return those of the codecs that were asked for that carry what the algorithm sends.

    Args:
        algorithms: All algorithms of the plan.

    Raises:
        SettingsError: If a codec does not exist, or fits none of the algorithms.
    """
    for spec in asked:
        if not any(_fits(spec, name) for name in algorithms):
            Parts.of(RunOptions(algorithm=algorithm, codec=spec))  # says what is missing
    return [spec for spec in asked if _fits(spec, algorithm)]


def demand_pilots(profile: Profile, algorithm: str, asked: Sequence[str]) -> None:
    """Make sure that the codecs that were asked for have the pilots that they need with this algorithm.

    Raises:
        SettingsError: If one has none.
    """
    for spec in asked:
        if _fits(spec, algorithm) and CODECS.make(spec).feedback and not _pilots(profile, algorithm, spec):
            raise SettingsError(
                f"the profile has no pilots of {spec} with {algorithm}: run 'lambdaml profile' with --target and "
                f"--codec {spec}"
            )


def _fits(spec: str, algorithm: str) -> bool:
    return not unfit(CODECS.make(spec), ALGORITHMS.make(algorithm))


def _pilots(profile: Profile, algorithm: str, spec: str) -> list[PilotRun]:
    return [run for run in profile.pilot if (run.codec, run.algorithm) == (spec, algorithm)]


def _doubt(profile: Profile, algorithm: str, spec: str, to_target: bool) -> str:
    """Return why a codec is not proposed, or ""."""
    feedback, runs = CODECS.make(spec).feedback, _pilots(profile, algorithm, spec)
    if not to_target:
        return "not proposed for a number of epochs, unless asked for" if feedback else ""
    if not runs:
        return "not proposed, since there was no time for pilots" if feedback else ""
    if spec == PLAIN or any(run.steps is not None for run in runs):
        return ""
    return f"not proposed, since pilots learnt more than {PATIENCE:g} times as slowly as with {PLAIN}"
