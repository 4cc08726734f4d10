"""Open a store by its URL, with counting and retrying around it. A backend is one file and one line in `BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import islice

from lambdaml.storage.backend import Backend
from lambdaml.storage.errors import BadStoreURL
from lambdaml.storage.meter import Meter, Metered
from lambdaml.storage.protocol import MANY, Store
from lambdaml.storage.retry import Retrying
from lambdaml.storage.url import StoreURL, nearest_known, parse_number

BACKENDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "": ("lambdaml.storage.file", ()),
    "file": ("lambdaml.storage.file", ()),
    "memory": ("lambdaml.storage.memory", ()),
    "s3": ("lambdaml.storage.s3", ("endpoint", "region", "client", "keys", "sorted")),
    "gs": ("lambdaml.storage.cloud", ("endpoint",)),
    "az": ("lambdaml.storage.cloud", ("endpoint",)),
    "moto": ("lambdaml.storage.moto", ("client",)),
    "ray": ("lambdaml.storage.ray", ("address", "auth")),
}
"""The module whose `open_backend(StoreURL) -> Backend` opens each scheme, and the parameters that the store takes."""

AROUND = ("latency", "bandwidth", "latency_seed", "faults", "faults_seed")
"""The parameters that every store takes; see `lambdaml.storage.latency` and `lambdaml.storage.faults`."""


def open_store(url: str, meter: Meter | None = None) -> Retrying:
    """Open the store that `url` names.

    - `file:///absolute/path`, `./path`, `/path`: a directory, the default on one machine
    - `memory://name`: the memory of this process
    - `s3://bucket/prefix?endpoint=&region=&client=obstore|boto3&keys=made-up&sorted=no`
    - `gs://bucket/prefix?endpoint=`, `az://container/prefix?endpoint=`
    - `moto://bucket/prefix`: a server that speaks S3, started here and ended with this process
    - `ray://name/prefix?address=&auth=token`: Ray's object store, on a running cluster or on one started for this
      process
    - each of them with `?latency=s3-standard&bandwidth=65MB/s&latency_seed=1` (as slow as another store) and
      `?faults=lost:0.01,slowdown:0.01&faults_seed=1` (failing on purpose)

    Requests are counted in `.meter` (the given one, or a new one), and repeated when that may help. Credentials come
    from the environment and are never part of a URL. Except for `moto://` and `ray://`, nothing is connected before the
    first call, so wrong credentials show only then.

    Raises:
        BadStoreURL: If it names no store that we know, or a parameter that the store does not take.
    """
    parsed = StoreURL.parse(url)
    entry = BACKENDS.get(parsed.scheme)
    if entry is None:
        raise BadStoreURL(
            f"{parsed.scheme}:// is no store we know{nearest_known(parsed.scheme, [k for k in BACKENDS if k])}"
        )
    module, params = entry
    parsed.taking((*params, *AROUND))
    backend: Backend = import_module(module).open_backend(parsed.adding(**dict.fromkeys(AROUND)))
    try:
        return Retrying(Metered(_around(backend, parsed), meter))
    except BaseException:
        backend.close()
        raise


def copy(source: Store, target: Store, prefix: str = "", tell: Callable[[int, bool], None] | None = None) -> int:
    """Copy objects whose keys begin with `prefix`, in key order, and return how many of them the target now holds.

    Copying is create-only: objects that the target already holds stay, and count only if their bytes are equal. A
    copy that was interrupted can therefore be started again.

    Args:
        tell: A function called for each object that was read, with its size in bytes and whether the target holds it.
    """
    held = 0
    infos = source.list(prefix)
    while keys := [info.key for info in islice(infos, MANY)]:
        for key, data in zip(keys, source.get_many(keys), strict=True):
            if data is not None:
                holds = target.create(key, data) is None
                held += holds
                if tell is not None:
                    tell(len(data), holds)
    return held


def _around(backend: Backend, url: StoreURL) -> Backend:
    params = url.params
    if "latency" in params or "bandwidth" in params:
        from lambdaml.storage.latency import Slow

        backend = Slow(backend, params.get("latency", "0ms"), params.get("bandwidth"), _seed(url, "latency_seed"))
    elif "latency_seed" in params:
        raise BadStoreURL("latency_seed stands without latency")
    if "faults" in params:
        from lambdaml.storage.faults import Faulty, parse_rates

        backend = Faulty(backend, parse_rates(params["faults"]), _seed(url, "faults_seed"))
    elif "faults_seed" in params:
        raise BadStoreURL("faults_seed stands without faults")
    return backend


def _seed(url: StoreURL, name: str) -> int:
    return int(parse_number(url.params.get(name, "0"), name))
