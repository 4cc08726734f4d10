"""Object stores behind one small protocol, whose requests can be counted, retried, slowed down and made to fail.

    from lambdaml.storage import open_store

    store = open_store("s3://bucket/run-1")        # or file:///tmp/run-1, memory://run-1, moto://bucket/run-1
    store.create("log/0000000000.json", b"{}")     # None: we wrote it; otherwise the bytes that were there before
    store.meter.snapshot().requests                # {'create': 1}

This package knows no machine learning, and imports only the standard library until a store needs more.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lambdaml.storage.errors import (
    AccessDenied,
    BadStoreURL,
    LambdaMLError,
    StoreError,
    StoreFull,
    StoreTimeout,
    StoreUnavailable,
    StoreUnfit,
    Throttled,
)
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo, Store

if TYPE_CHECKING:
    from lambdaml.storage.faults import Faulty
    from lambdaml.storage.file import DirectoryStore
    from lambdaml.storage.latency import LatencyModel, Slow
    from lambdaml.storage.ledger import Ledger
    from lambdaml.storage.memory import MemoryStore
    from lambdaml.storage.meter import Meter, Metered, MeterReading, read_ledger
    from lambdaml.storage.open import copy, open_store
    from lambdaml.storage.probe import Finding, check, examine
    from lambdaml.storage.retry import Retrying

__all__ = [
    "AccessDenied",
    "BadStoreURL",
    "Bytes",
    "Data",
    "DirectoryStore",
    "Faulty",
    "Finding",
    "LambdaMLError",
    "LatencyModel",
    "Ledger",
    "MemoryStore",
    "Meter",
    "MeterReading",
    "Metered",
    "ObjectInfo",
    "Retrying",
    "Slow",
    "Store",
    "StoreError",
    "StoreFull",
    "StoreTimeout",
    "StoreUnavailable",
    "StoreUnfit",
    "Throttled",
    "check",
    "copy",
    "examine",
    "open_store",
    "read_ledger",
]

_LAZY = {
    "DirectoryStore": "file",
    "Faulty": "faults",
    "Finding": "probe",
    "LatencyModel": "latency",
    "Ledger": "ledger",
    "MemoryStore": "memory",
    "Meter": "meter",
    "MeterReading": "meter",
    "Metered": "meter",
    "Retrying": "retry",
    "Slow": "latency",
    "check": "probe",
    "copy": "open",
    "examine": "probe",
    "open_store": "open",
    "read_ledger": "meter",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
