"""The codecs that a profile measures, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lambdaml.algorithms import ALGORITHMS
from lambdaml.codecs import CODECS, Codec, Layout
from lambdaml.cost.planning.pilot import PLAIN
from lambdaml.errors import SettingsError
from lambdaml.options import RunOptions
from lambdaml.parts import Parts, unfit


@dataclass(frozen=True, slots=True)
class CodecTrial:
    """A codec to measure.

    Attributes:
        codec: The spec of the codec.
        algorithm: An algorithm whose vectors it can carry.
        needed: Whether it is measured even if there is no time left.
    """

    codec: str
    algorithm: str
    needed: bool


def codec_trials(layout: Layout, algorithms: Sequence[str], asked: Sequence[str] = ()) -> list[CodecTrial]:
    """Return the codecs to measure: first plain updates, then codecs that leave nothing out, then those of the smallest
    updates.

    Args:
        layout: The layout of the job's vectors.
        asked: The codecs to choose. By default these are all that are worth trying and can carry the job's vectors, if
            one of the algorithms gives what they need.

    Raises:
        SettingsError: If one that was asked for does not exist or cannot be measured.
    """
    # What is measured is the whole vector, so fragments of it are no measure.
    algorithms = ["gradient" if ALGORITHMS.make(name).fragments > 1 else name for name in algorithms]
    found: dict[str, tuple[Codec, str]] = {}
    for spec in dict.fromkeys([PLAIN, *(asked or CODECS.variants())]):
        codec = CODECS.make(spec)
        fitting = [name for name in algorithms if not unfit(codec, ALGORITHMS.make(name))]
        misfit = codec.misfit(layout)
        if asked and misfit:
            raise SettingsError(f"codec {spec!r} {misfit}")
        if asked and not fitting:
            Parts.of(RunOptions(algorithm=algorithms[0], codec=spec))  # says what is missing
        if fitting and not misfit:
            found[spec] = codec, fitting[0]

    def order(spec: str) -> tuple[bool, bool, int]:
        codec = found[spec][0]
        return spec != PLAIN, codec.feedback, codec.expected_bytes(layout)

    return [
        CodecTrial(spec, found[spec][1], bool(asked) or not found[spec][0].feedback)
        for spec in sorted(found, key=order)
    ]
