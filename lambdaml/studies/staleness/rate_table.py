"""Learning rates for each model and algorithm; `lambdaml.studies.staleness.rates` says how they were found."""

RATES: dict[str, dict[str, float]] = {
    "mlr": {"sgd": 0.01, "momentum": 0.001, "adam": 0.0005, "adagrad": 0.004, "rmsprop": 0.0005},
    "dnn1": {"sgd": 0.01, "momentum": 0.001, "adam": 0.00025, "adagrad": 0.001, "rmsprop": 0.00025},
    "dnn2": {"sgd": 0.02, "momentum": 0.002, "adam": 0.000125, "adagrad": 0.001, "rmsprop": 0.000125},
    "dnn3": {"sgd": 0.02, "momentum": 0.004, "adam": 0.000125, "adagrad": 0.001, "rmsprop": 0.000125},
    "dnn4": {"sgd": 0.04, "momentum": 0.004, "adam": 0.000125, "adagrad": 0.001, "rmsprop": 0.000125},
    "dnn5": {"sgd": 0.04, "momentum": 0.008, "adam": 0.000125, "adagrad": 0.001, "rmsprop": 0.000125},
    "dnn6": {"sgd": 0.02, "momentum": 0.008, "adam": 0.000125, "adagrad": 0.001, "rmsprop": 0.00025},
    "cnn": {"sgd": 0.005, "momentum": 0.0005, "adam": 0.00025, "adagrad": 0.001, "rmsprop": 0.000125},
    "resnet8": {"sgd": 0.01, "momentum": 0.001, "adam": 0.000125, "adagrad": 0.0005, "rmsprop": 0.000125},
    "vae": {"sgd": 0.00125, "momentum": 0.00025, "adam": 0.000125, "adagrad": 0.001, "rmsprop": 0.000125},
    "mf": {"sgd": 0.02, "momentum": 0.002, "adam": 0.004, "adagrad": 0.04, "rmsprop": 0.004},
}
"""The learning rates by model and algorithm. Not tuned are `cnn`, `resnet8`, `sgd` for `vae` (rates of the grid, from a
few trials) and `mf` (SGD's is that of check A5 in the tests, the others are guesses). `--tune` finds better ones."""
