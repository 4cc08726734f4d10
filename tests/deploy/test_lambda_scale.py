"""Functions by the hundred, from one call of the launcher, on a Lambda that has room for a few at a time."""

import time
from pathlib import Path

import lambdaml
from lambdaml.deploy.local_lambda import LocalLambda
from lambdaml.log import keys
from lambdaml.log.launches import Claim
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import read_many
from lambdaml.storage import open_store

TINY = f"{Path(__file__).resolve().parents[1] / 'lambdaml' / 'lab.py'}:Tiny"
FUNCTIONS = 256


def test_256_functions_are_invoked_though_most_have_their_turn_when_the_run_has_ended(tmp_path: Path) -> None:
    """The functions that have room work as the workers of all others, whose invocations then find nothing to do."""
    with LocalLambda(concurrency=8) as local:
        done = lambdaml.train(
            TINY,
            f"file://{tmp_path}/run",
            args={"samples": 8 * FUNCTIONS},
            workers=FUNCTIONS,
            functions=FUNCTIONS,
            schedule="asp",
            steps=1,
            lease_s=2.0,
            engine="lambda",
            engine_options={"endpoint_url": local.url},
        )
        end = time.monotonic() + 60.0
        while (stats := local.stats())["invocations"] <= FUNCTIONS or stats["running"]:
            assert time.monotonic() < end, stats
            time.sleep(0.05)
        reports = local.reports()
    assert done.fates["applied"] == done.updates == FUNCTIONS
    lambdaml.Run(done.run).verify()
    store = open_store(done.run)
    lives = [info.key for info in store.list(keys.LAUNCHES) if info.key.endswith("/000000.json")]
    claims = read_many(store, lives, Claim.read)
    assert len(claims) == FUNCTIONS
    assert any(claim.by for claim in claims if claim), "functions start others"
    usage = [each for each in RunReader(store).usage() if not each.launcher]
    assert len(usage) == len(reports) == stats["invocations"] > FUNCTIONS, "the survey is one more"
    assert all(each.complete for each in usage)
    assert sorted(report.billed_ms for report in reports)[FUNCTIONS // 2] < 200, "an ended run costs milliseconds"
    store.close()
