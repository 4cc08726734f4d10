"""The keys of a run's objects, relative to the run's prefix.

run.json                              create-only: the settings of the run
log/{commit:010d}.json                create-only: one per commit, without gaps
updates/{worker:05d}/{seq:010d}       create-only: an update that a worker published
blocks/{worker:05d}/{seq:010d}/{slice:05d}
                                      create-only: a slice of an update that is too large for one object
reduced/{commit:010d}/{name}          create-only: a sum of updates of this commit; see `lambdaml.log.partial`
sums/{commit:010d}/{name}             create-only: the vector of that sum, if it is an object of its own
snapshots/{version:010d}.safetensors  the full state at a version
frozen.safetensors                    create-only: the parameters that require no gradient, if any; never deleted
metrics/{version:010d}.json           the evaluation of that snapshot, with what it printed
leases/{worker:05d}/{generation:06d}  create-only: which function works as this worker
extra/{worker:05d}/{seq:010d}         create-only: what is measured beside an update, if asked for; see `lambdaml.log.extra`
announced/{worker:05d}/{seq:010d}     an update that is late stands here until it exists; see `lambdaml.worker.barrier`
trace/{function}/{part:05d}.jsonl     what a function measured, and what the job printed there
usage/{function}.json                 create-only: what a function used, as its engine saw it
horizon/{commit:010d}.json            create-only: history before this commit's snapshot may be deleted
memory/{worker:05d}/{seq:010d}        create-only: what a worker remembers after `seq` updates
travel/{worker:05d}/{seq:010d}        create-only: a worker's own model in a tuned run, which all workers judge
pins/{name}.json                      keeps the history from a version on
launches/{launch}/...                 what functions of one launch that share no memory with anybody tell each other and
                                      the launcher; see `lambdaml.log.launches`
control/{number:010d}.json            create-only: a wish to change a setting while the run goes on
stop.json                             create-only: a wish to stop (target reached, cancelled), with its reason
model.safetensors                     the result
"""

from __future__ import annotations

RUN = "run.json"
STOP = "stop.json"
MODEL = "model.safetensors"
FROZEN = "frozen.safetensors"
LOG = "log/"
UPDATES = "updates/"
BLOCKS = "blocks/"
EXTRA_OBJECTS = "extra/"
ANNOUNCED = "announced/"
REDUCED = "reduced/"
SUMS = "sums/"
SNAPSHOTS = "snapshots/"
METRICS = "metrics/"
LEASES = "leases/"
TRACE = "trace/"
USAGE = "usage/"
HORIZONS = "horizon/"
PINS = "pins/"
CONTROLS = "control/"
MEMORY = "memory/"
TRAVEL = "travel/"
LAUNCHES = "launches/"


def log(commit: int) -> str:
    """Return the key of the log entry of this commit."""
    return f"log/{commit:010d}.json"


def update(worker: int, seq: int) -> str:
    """Return the key of the update that a worker publishes under this sequence number."""
    return f"updates/{worker:05d}/{seq:010d}"


def extra(worker: int, seq: int) -> str:
    """Return the key of what is measured beside this update."""
    return f"{EXTRA_OBJECTS}{worker:05d}/{seq:010d}"


def announcement(worker: int, seq: int) -> str:
    """Return the key under which a worker announces an update that is late."""
    return f"{ANNOUNCED}{worker:05d}/{seq:010d}"


def updates(worker: int) -> str:
    """Return the prefix of the keys of a worker's updates."""
    return f"updates/{worker:05d}/"


def block(worker: int, seq: int, index: int) -> str:
    """Return the key of a slice of this update, if its slices are objects of their own."""
    return f"blocks/{worker:05d}/{seq:010d}/{index:05d}"


def block_id(key: str) -> tuple[int, int]:
    """Return the worker and the sequence number that the key of a slice names."""
    _, worker, seq, _ = key.split("/")
    return int(worker), int(seq)


def reduced(commit: int, name: str) -> str:
    """Return the key of the sum of updates of this commit that has this name."""
    return f"reduced/{commit:010d}/{name}"


def vector(commit: int, name: str) -> str:
    """Return the key of the vector of the sum that has this name, if it is an object of its own."""
    return f"sums/{commit:010d}/{name}"


def reduced_commit(key: str) -> int:
    """Return the commit that the key of a sum of updates names, or that of its vector."""
    return int(key.split("/")[1])


def snapshot(version: int) -> str:
    """Return the key of the snapshot of this version."""
    return f"snapshots/{version:010d}.safetensors"


def metrics(version: int) -> str:
    """Return the key of the evaluation of this version's snapshot."""
    return f"metrics/{version:010d}.json"


def leases(worker: int) -> str:
    """Return the prefix of the keys of a worker's leases."""
    return f"leases/{worker:05d}/"


def lease(worker: int, generation: int) -> str:
    """Return the key of a worker's lease of this generation."""
    return f"leases/{worker:05d}/{generation:06d}"


def trace_part(function: str, part: int) -> str:
    """Return the key of a part of a function's trace, by the function's name and the part's number."""
    return f"trace/{function}/{part:05d}.jsonl"


def usage(function: str) -> str:
    """Return the key of the record of what this function used."""
    return f"usage/{function}.json"


def memory(worker: int, seq: int) -> str:
    """Return the key of a worker's memory after `seq` updates."""
    return f"memory/{worker:05d}/{seq:010d}"


def memories(worker: int) -> str:
    """Return the prefix of the keys of a worker's memories."""
    return f"memory/{worker:05d}/"


def travel(worker: int, seq: int) -> str:
    """Return the key of a worker's own model, which travels after its update of this number."""
    return f"{TRAVEL}{worker:05d}/{seq:010d}"


def horizon(commit: int) -> str:
    """Return the key of the horizon that lets history before this commit's snapshot be deleted."""
    return f"horizon/{commit:010d}.json"


def pin(name: str) -> str:
    """Return the key of the pin of this name."""
    return f"pins/{name}.json"


def control(number: int) -> str:
    """Return the key of the control record of this number."""
    return f"control/{number:010d}.json"


def update_id(key: str) -> tuple[int, int]:
    """Return the worker and the sequence number that an update's key names."""
    _, worker, seq = key.split("/")
    return int(worker), int(seq)


def number(key: str) -> int:
    """Return the version, commit, sequence number or generation that a key ends with."""
    return int(key.rsplit("/", 1)[1].split(".", 1)[0])
