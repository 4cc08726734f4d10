"""Learning rates for each model and algorithm; `lambdaml.study.rates` says how they were found."""

RATES: dict[str, dict[str, float]] = {}
