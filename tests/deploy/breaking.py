"""A job that breaks when it has been at work for a while, for the tests of functions on Lambda."""

from typing import Any

from tests.lambdaml.lab import Tiny


class Breaking(Tiny):
    steps = 0

    def loss(self, model: Any, batch: Any) -> Any:
        Breaking.steps += 1
        if Breaking.steps > 5:
            raise RuntimeError("on purpose")
        return super().loss(model, batch)
