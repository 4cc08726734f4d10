"""LambdaML's two exchanges over S3, written anew from their sequences of requests, as a baseline for ours.

    python benchmarks/lambdaml_baseline.py --workers 4,8 --megabytes 1,10

LambdaML (https://github.com/DS3Lab/LambdaML, SIGMOD 2021, arXiv 2105.07806) exchanges vectors in two ways.

`reduce`: each worker puts its vector. Worker 0 lists them, without a pause, until it has read and added all of them,
its own included; it deletes in bulk what it has read after each list. It puts the sum, lists the sums and deletes the older
ones. The others ask for the sum every 0.1 s.

`reduce_scatter`: each worker puts one chunk of its vector for each of the others. It lists, without a pause, until it
has read, added and deleted its own chunk of each of the others; puts that chunk's sum; and lists, without a pause, until
it has read the sums of all other chunks.

All requests of a worker follow each other, as there, and keys name no job. What is kept is the order, the number and the
kind of requests. What only costs time is not: a bulk delete without keys, pickled lists, floats as text in keys, checksums that the
server does not ask for. Workers are processes that import neither torch nor our runtime and compute nothing between two
rounds, so that this is as quick as theirs can be. The sum is compared with what it must be in the first and in the last round.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from _together import middle, run_together, wait_for_all

from tests.storage.servers import seaweedfs

T = TypeVar("T")

Vector = NDArray[np.float32]
SEQUENCES = ("reduce", "reduce_scatter")

POLL_S = 0.1
"""The pause of a worker that waits for the sum of `reduce`."""

TEMPORARY, MERGED = "tmp-params", "merged-params"


@dataclass(frozen=True, slots=True)
class Measured:
    """The rounds of one exchange.

    Attributes:
        round_s: The median time from a worker's start of a round to its start of the next, over all workers.
        requests: The requests of all workers in a round by kind, as a meter names them.
    """

    round_s: float
    requests: Mapping[str, float]


class Client:
    """A worker's client: plain requests of boto3, which are counted, and as slow as `latency_s` says.

    A request takes effect half-way through its latency, and its own time is part of the latency, as in
    `lambdaml.storage.latency`.
    """

    def __init__(self, endpoint: str, latency_s: float) -> None:
        import boto3  # type: ignore[import-untyped,unused-ignore]
        from botocore.config import Config  # type: ignore[import-untyped,unused-ignore]

        self.requests: Counter[str] = Counter()
        self._latency_s = latency_s
        self._s3: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="moto",
            aws_secret_access_key="moto",
            config=Config(
                proxies={},
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def put(self, bucket: str, key: str, vector: Vector) -> None:
        body = vector.tobytes()
        self._ask("put", lambda: self._s3.put_object(Bucket=bucket, Key=key, Body=body))

    def get(self, bucket: str, key: str) -> Vector | None:
        """Return the vector at this key, or None where there is none yet."""

        def read() -> bytes | None:
            try:
                data: bytes = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            except self._s3.exceptions.NoSuchKey:
                return None
            return data

        data = self._ask("get", read)
        if data is None:
            self.requests["get"] -= 1
            self.requests["get_miss"] += 1
        return None if data is None else np.frombuffer(data, np.float32)

    def keys(self, bucket: str) -> list[str]:
        """Return the bucket's first thousand keys."""
        answer = self._ask("list", lambda: self._s3.list_objects_v2(Bucket=bucket))
        return [row["Key"] for row in answer.get("Contents", [])]

    def delete(self, bucket: str, key: str) -> None:
        self._ask("delete", lambda: self._s3.delete_object(Bucket=bucket, Key=key))

    def delete_all(self, bucket: str, keys: list[str]) -> None:
        """Delete these objects in one request, if there are any."""
        if keys:
            objects = [{"Key": key} for key in keys]
            self._ask("delete", lambda: self._s3.delete_objects(Bucket=bucket, Delete={"Objects": objects}))

    def open(self) -> None:
        """Connect to the server, and make both buckets."""
        for bucket in (TEMPORARY, MERGED):
            try:
                self._s3.create_bucket(Bucket=bucket)
            except self._s3.exceptions.ClientError:
                self._s3.head_bucket(Bucket=bucket)

    def _ask(self, kind: str, call: Callable[[], T]) -> T:
        self.requests[kind] += 1
        began = time.perf_counter()
        _sleep_until(began + self._latency_s / 2)
        answer = call()
        _sleep_until(began + self._latency_s)
        return answer


def _sleep_until(moment: float) -> None:
    if (pause_s := moment - time.perf_counter()) > 0:
        time.sleep(pause_s)


def reduce(client: Client, rank: int, workers: int, number: int, vector: Vector) -> Vector:
    """Return the sum of all workers' vectors of this round, through worker 0."""
    client.put(TEMPORARY, f"{rank}_{number}", vector)
    name = f"merged_{number}"
    if rank:
        while (found := client.get(MERGED, name)) is None:
            time.sleep(POLL_S)
        return found
    total, count = np.zeros_like(vector), 0
    while count < workers:
        keys = [key for key in client.keys(TEMPORARY) if key.endswith(f"_{number}")]
        for key in keys:
            found = client.get(TEMPORARY, key)
            assert found is not None
            total += found
        client.delete_all(TEMPORARY, keys)
        count += len(keys)
    client.put(MERGED, name, total)
    client.delete_all(MERGED, [key for key in client.keys(MERGED) if key != name])
    return total


def reduce_scatter(client: Client, rank: int, workers: int, number: int, vector: Vector) -> Vector:
    """Return the sum of all workers' vectors of this round, of which each worker sums up one chunk."""
    chunks = np.array_split(vector, workers)
    for other in range(workers):
        if other != rank:
            client.put(TEMPORARY, f"{other}_{rank}_{number}", chunks[other])
    total, count = chunks[rank].copy(), 1
    while count < workers:
        for key in client.keys(TEMPORARY):
            if key.startswith(f"{rank}_") and key.endswith(f"_{number}"):
                found = client.get(TEMPORARY, key)
                assert found is not None
                total += found
                client.delete(TEMPORARY, key)
                count += 1
    client.put(MERGED, f"{rank}_{number}", total)
    merged = {rank: total}
    while len(merged) < workers:
        for key in client.keys(MERGED):
            chunk = int(key.partition("_")[0])
            if key.endswith(f"_{number}") and chunk not in merged:
                found = client.get(MERGED, key)
                assert found is not None
                merged[chunk] = found
    return np.concatenate([merged[chunk] for chunk in range(workers)])


EXCHANGES: Mapping[str, Callable[[Client, int, int, int, Vector], Vector]] = {
    "reduce": reduce,
    "reduce_scatter": reduce_scatter,
}


def work(
    rank: int, endpoint: str, latency_s: float, sequence: str, workers: int, floats: int, rounds: int
) -> tuple[list[float], Counter[str]]:
    """Take part in all rounds as one worker; return when each began and the last one ended, and all requests."""
    client = Client(endpoint, latency_s)
    client.open()
    pattern = np.arange(floats, dtype=np.float32) % 1000
    vector, expected = pattern + rank, pattern * workers + workers * (workers - 1) / 2
    moments = []
    wait_for_all()
    for number in range(rounds):
        moments.append(time.perf_counter())
        total = EXCHANGES[sequence](client, rank, workers, number, vector)
        if number in (0, rounds - 1) and not np.array_equal(total, expected):
            raise AssertionError(f"{sequence}: the sum of round {number} is wrong in worker {rank}")
    return [*moments, time.perf_counter()], client.requests


def measure(endpoint: str, sequence: str, workers: int, floats: int, rounds: int, latency_s: float = 0.0) -> Measured:
    """Run an exchange on a server in as many processes as it has workers, and leave its buckets empty."""
    found = run_together(work, workers, endpoint, latency_s, sequence, workers, floats, rounds)
    client = Client(endpoint, 0.0)
    for bucket in (TEMPORARY, MERGED):
        while keys := client.keys(bucket):
            client.delete_all(bucket, keys)
    requests = sum((counted for _, counted in found), start=Counter[str]())
    return Measured(
        median(spent for moments, _ in found for spent in middle(moments)),
        {kind: count / rounds for kind, count in sorted(requests.items())},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="4,8")
    parser.add_argument("--megabytes", default="1,10")
    parser.add_argument("--milliseconds", default="0,40", help="latency of a request")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    workers, megabytes, latencies = (
        [float(part) for part in text.split(",")] for text in (options.workers, options.megabytes, options.milliseconds)
    )
    print(f"{'workers':>8}{'MB':>5}{'ms':>5}  {'sequence':15}{'ms a round':>11}  requests a round")
    for count, size, ms in ((int(n), m, ms) for n in workers for m in megabytes for ms in latencies):
        with seaweedfs(volumes=300) as url:
            endpoint = url.partition("endpoint=")[2].partition("&")[0]
            for sequence in SEQUENCES:
                found = measure(endpoint, sequence, count, round(size * 250_000), options.rounds, ms / 1e3)
                text = ", ".join(f"{kind} {number:g}" for kind, number in found.requests.items())
                print(f"{count:8}{size:5g}{ms:5g}  {sequence:15}{found.round_s * 1e3:11.0f}  {text}", flush=True)


if __name__ == "__main__":
    main()
