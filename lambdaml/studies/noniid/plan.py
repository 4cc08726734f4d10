"""The plan of a non-IID study: its options, and the units of work into which its settings are divided."""

from __future__ import annotations

from dataclasses import dataclass

from lambdaml.errors import SettingsError
from lambdaml.studies.noniid.algorithms import ALGORITHMS_UNDER_SKEW, LOCAL_STEPS, demand_algorithm
from lambdaml.studies.noniid.dealing import SKEW_STEP
from lambdaml.studies.noniid.nets import NORMS, demand_net


@dataclass(frozen=True, slots=True)
class SkewPlan:
    """The options of a non-IID study.

    Attributes:
        models: The names of the models, which are keys of `NETS`.
        algorithms: The names of the algorithms, which are keys of `ALGORITHMS_UNDER_SKEW`.
        norms: The normalisations, out of `NORMS`.
        skews: The degrees of label skew, in percent, which always include 0.
        seeds: The number of seeds.
        iterations: The number of batches of each partition.

    Raises:
        SettingsError: If an option does not exist or does not fit.
    """

    models: tuple[str, ...] = ("mlp",)
    algorithms: tuple[str, ...] = tuple(ALGORITHMS_UNDER_SKEW)
    norms: tuple[str, ...] = NORMS
    skews: tuple[int, ...] = (0, 20, 40, 60, 80, 100)
    seeds: int = 3
    iterations: int = 800

    def __post_init__(self) -> None:
        if not (self.models and self.algorithms and self.norms):
            raise SettingsError("name a model, an algorithm and a normalisation")
        for model in self.models:
            for norm in self.norms:
                demand_net(model, norm)
        for algorithm in self.algorithms:
            demand_algorithm(algorithm)
        wrong = [skew for skew in self.skews if not 0 <= skew <= 100 or skew % SKEW_STEP]
        if wrong:
            raise SettingsError(f"a degree of skew is a multiple of {SKEW_STEP} from 0 to 100 percent, not {wrong[0]}")
        if self.seeds < 1:
            raise SettingsError(f"seeds must be 1 or more, not {self.seeds}")
        if self.iterations < 1 or self.iterations % LOCAL_STEPS:
            raise SettingsError(f"iterations must be a multiple of {LOCAL_STEPS}, not {self.iterations}")

    def degrees(self) -> tuple[int, ...]:
        """Return the distinct degrees of skew, rising from 0."""
        return tuple(sorted({0, *self.skews}))

    def units(self) -> list[SkewUnit]:
        """Return the whole study, one unit for each model, algorithm and normalisation."""
        settings = tuple((skew, seed) for skew in self.degrees() for seed in range(self.seeds))
        return [
            SkewUnit(model, algorithm, norm, self.iterations, settings)
            for model in self.models
            for algorithm in self.algorithms
            for norm in self.norms
        ]


@dataclass(frozen=True, slots=True)
class SkewUnit:
    """A unit of work: settings of one model, algorithm and normalisation, which are computed at once.

    Attributes:
        model: The name of the model.
        algorithm: The name of the algorithm.
        norm: The normalisation.
        iterations: The number of batches of each partition.
        settings: The degree of skew in percent and the seed of each setting.
    """

    model: str
    algorithm: str
    norm: str
    iterations: int
    settings: tuple[tuple[int, int], ...]
