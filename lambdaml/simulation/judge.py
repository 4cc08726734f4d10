"""A judge that checks the promises on what a virtual run left behind, by means that the runtime does not use itself.

Every rule here is written independently from the promise, rather than by calling the code that has to keep it.
"""

from __future__ import annotations

import hashlib
from collections import Counter

from lambdaml.errors import LambdaMLError
from lambdaml.log import keys, wire
from lambdaml.log.blocks import load_vector
from lambdaml.log.partial import Partial
from lambdaml.log.records import DAMAGED, Commit, Update, damaged
from lambdaml.parts import Parts
from lambdaml.schedules import SCHEDULES, rounds_at_once
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.group_judge import judge_groups
from lambdaml.simulation.memory_judge import WHOLE, judge_horizons, judge_memories, remembers
from lambdaml.simulation.stub_replica import chain_digest
from lambdaml.simulation.turn_judge import cohorts_of, judge_turns

CREATE_ONLY = (
    *("run.json", "log/", "updates/", "blocks/", "reduced/", "sums/", "snapshots/", "leases/", "memory/"),
    *("extra/", "travel/", "model.safetensors"),
)

REQUESTS_PER_S = 200
"""The most requests that a function sends to the store in a second, on average, however badly things go."""


def judge(virtual: VirtualRun, end: str) -> list[str]:
    """Return the promises that a run broke, in words.

    Args:
        end: The way the run ended, as `lambdaml.simulation.faults.play` returned it.
    """
    broken = [end] if end and not any(key in end for key in virtual.bucket.spoiled) else []
    try:
        commits = virtual.log()
        updates = _updates(virtual, commits)
    except LambdaMLError as error:
        return [*broken, f"the bucket cannot be read: {error}"]
    broken += _log(virtual, commits)
    broken += _fates(virtual, commits, updates, finished=not end)
    broken += _entries(virtual, commits, updates)
    broken += _sums(virtual, commits, updates)
    alone = rounds_at_once(SCHEDULES.make(virtual.settings.schedule)) > 0
    broken += judge_groups(virtual, commits, updates, _start(virtual)) if alone else _states(virtual, commits, updates)
    broken += _bounds(virtual, commits)
    broken += _deletions(virtual)
    if remembers(virtual) and not alone:
        chains = [bytes.fromhex(chain) for _, chain in _chains(virtual, commits, updates)]
        if virtual.settings.takes_turns:
            broken += judge_turns(virtual, updates, chains)
        else:
            broken += judge_memories(virtual, commits, updates, chains)
            broken += judge_horizons(virtual, updates)
    rounds = virtual.settings.schedule in ("bsp", "ssp:0") or virtual.settings.schedule.startswith(
        ("pipeline", "cohort")
    )
    if not end and rounds and all(not c.refused for c in commits):
        broken += _bits(virtual)
    return broken


def _updates(virtual: VirtualRun, commits: list[Commit]) -> dict[tuple[int, int], Update]:
    """Return every update that ever existed. Of two at one place, the first counts; the other followed its deletion.

    An update whose object the store has damaged is as it was if the log does not say so: its publisher decided its fate.
    """
    found: dict[tuple[int, int], Update] = {}
    entries = [entry for commit in commits for entry in commit.entries]
    whole = {keys.update(entry.worker, entry.seq) for entry in entries if entry.reason != DAMAGED}
    written = [(gone.key, gone.data) for gone in virtual.bucket.deleted if gone.key.startswith(keys.UPDATES)]
    written += [(info.key, virtual.bucket.get(info.key) or b"") for info in virtual.bucket.list(keys.UPDATES)]
    for key, data in written:
        worker, seq = keys.update_id(key)
        if (worker, seq) in found:
            continue
        try:
            found[worker, seq] = Update.unpack(data, worker, seq)
        except LambdaMLError:
            found[worker, seq] = damaged(worker, seq, len(data))
            if key in virtual.bucket.spoiled and key in whole:
                found[worker, seq] = Update.unpack(virtual.bucket.spoiled[key], worker, seq)
    return found


def _log(virtual: VirtualRun, commits: list[Commit]) -> list[str]:
    """Check promise 1: the log has no gap, and what is written once is never written again."""
    broken = [f"{key} was written twice" for key in virtual.bucket.overwritten if key.startswith(CREATE_ONLY)]
    numbers = [keys.number(info.key) for info in virtual.bucket.list(keys.LOG)]
    if numbers != list(range(len(numbers))):
        broken.append(f"the log has a gap: {numbers}")
    version = 0
    for commit in commits:
        if commit.version != version:
            broken.append(f"commit {commit.commit} starts from version {commit.version}, not {version}")
        version += len(commit.steps)
    if any(commit.stop for commit in commits[:-1]):
        broken.append("the log goes on after its end")
    return broken


def _fates(
    virtual: VirtualRun, commits: list[Commit], updates: dict[tuple[int, int], Update], finished: bool
) -> list[str]:
    """Check promise 2: every update has exactly one fate, in the order of its worker's numbers."""
    settings = virtual.settings
    counts = Counter((entry.worker, entry.seq) for commit in commits for entry in commit.entries)
    broken = [f"update {name} has {count} fates" for name, count in counts.items() if count != 1]
    broken += [f"update {name} has a fate but does not exist" for name in counts if name not in updates]
    due = [0] * settings.workers
    for commit in commits:
        for entry in sorted(commit.entries, key=lambda entry: (entry.worker, entry.seq)):
            if entry.seq != due[entry.worker]:
                broken.append(f"update {(entry.worker, entry.seq)} has its fate out of turn")
            due[entry.worker] = entry.seq + 1
    if finished and not settings.schedule.startswith("quorum"):
        expected = {(worker, seq) for worker in range(settings.workers) for seq in range(settings.steps)}
        broken += [f"update {name} never got a fate" for name in sorted((expected | set(updates)) - set(counts))]
    if finished and virtual.bucket.get(keys.MODEL) is None:
        broken.append("the run has ended without a result")
    return broken


def _entries(virtual: VirtualRun, commits: list[Commit], updates: dict[tuple[int, int], Update]) -> list[str]:
    """Check promise 2 and leases: the log tells the truth about updates, and nothing fenced or faulty is applied."""
    broken, alone = [], rounds_at_once(SCHEDULES.make(virtual.settings.schedule)) > 0  # then others have averaged it
    highest: Counter[int] = Counter()
    for commit in commits:
        version = commit.version
        for step in commit.steps:
            for entry in step:
                name, update = (entry.worker, entry.seq), updates.get((entry.worker, entry.seq))
                if update is None:
                    continue
                told = (entry.base, entry.generation, entry.samples, entry.loss)
                if told != (update.base, update.generation, update.samples, update.loss):
                    broken.append(f"the log says {told} of update {name}, which is not what it says itself")
                if entry.staleness != version - entry.base or entry.staleness < 0:
                    broken.append(f"update {name} from version {entry.base} applied at {version} is said to be fresh")
                if entry.weight != 1.0:
                    broken.append(f"update {name} has weight {entry.weight}")
                if update.base_commit > commit.commit:
                    broken.append(f"update {name} was computed after commit {update.base_commit}, which applies it")
                if virtual.bad(*name):
                    broken.append(f"update {name} is applied although it must be rejected")
            version += 1
        applied = {(entry.worker, entry.seq) for entry in commit.applied}
        for entry in sorted(commit.entries, key=lambda entry: (entry.worker, entry.seq)):
            fenced = entry.generation < highest[entry.worker]
            if fenced and (entry.worker, entry.seq) in applied and not alone:
                broken.append(f"update {(entry.worker, entry.seq)} is applied although its lease was lost")
            if not fenced and not entry.reason.startswith("damaged"):
                highest[entry.worker] = entry.generation
    return broken


def _sums(virtual: VirtualRun, commits: list[Commit], updates: dict[tuple[int, int], Update]) -> list[str]:
    """Check promise 2: a sum that is shared holds each update that the log applies once and in order, and no other.

    Slices may be added up twice in a round. Then only the later sums count.
    """
    if virtual.settings.pattern == "fold":
        return _models(virtual, commits, updates)
    broken, attempts = [], Counter[int]()
    gone = {keys.reduced_commit(each.key) for each in virtual.bucket.deleted if each.key.startswith(keys.REDUCED)}
    # A late request may make a sum again that was deleted.
    keys_ = [info.key for info in virtual.bucket.list(keys.REDUCED) if keys.reduced_commit(info.key) not in gone]
    for key in keys_:
        attempts[keys.reduced_commit(key)] = max(attempts[keys.reduced_commit(key)], _attempt(virtual, key))
    for key in keys_:
        partial = Partial.read(virtual.bucket.get(key) or b"", key)
        vector = keys.vector(partial.commit, key.rpartition("/")[2])
        if (data := virtual.bucket.get(vector)) is not None:
            partial.sum = load_vector(data, vector)
        if partial.commit >= len(commits) or _attempt(virtual, key) < attempts[partial.commit]:
            continue
        applied = [(entry.worker, entry.seq) for entry in commits[partial.commit].applied]
        if not virtual.settings.pattern.startswith("scatter"):
            covered = {update.id for update in partial.updates}
            applied = [each for each in applied if each in covered]
        due = [(*each, updates[each].loss) for each in applied]
        terms = [(int(w), int(seq), loss) for w, seq, loss, _ in partial.sum["terms"].tolist()] if partial.sum else []
        if terms != due:
            broken.append(f"{key} adds up {terms} where {due} are due")
    return broken


def _models(virtual: VirtualRun, commits: list[Commit], updates: dict[tuple[int, int], Update]) -> list[str]:
    after, broken = _chains(virtual, commits, updates), []
    for info in virtual.bucket.list(keys.REDUCED):
        record, number = wire.load_json(virtual.bucket.get(info.key) or b"", info.key), keys.reduced_commit(info.key)
        if len(after) > number + 1 and record["chain"] != after[number + 1][1]:
            broken.append(f"{info.key} has another model than the log makes")
    return broken


def _attempt(virtual: VirtualRun, key: str) -> int:
    return int(key.rpartition(".")[2]) if virtual.settings.pattern.startswith("scatter") else 0


def _states(virtual: VirtualRun, commits: list[Commit], updates: dict[tuple[int, int], Update]) -> list[str]:
    """Check promises 3 and 4: replicas and snapshots are what the log makes, with sums in the order that it lists."""
    after = _chains(virtual, commits, updates)
    if len(after) <= len(commits):
        return []  # another check has reported what is missing
    broken = []
    for life in virtual.lives:
        state = life.machine.state().meta
        log_state = state["log_state"]
        if life.world.overtaken:
            continue  # it had computed deleted updates again, and left when it noticed
        if log_state["commit"] > len(commits):
            if life.outcome == "done":
                broken.append(f"{life.name} has applied commits that the log does not hold")
        elif (log_state["version"], state["chain"]) != after[log_state["commit"]]:
            broken.append(f"{life.name} has another state at version {log_state['version']} than the log makes")
    for info in virtual.bucket.list(keys.SNAPSHOTS):
        record = wire.load_json(virtual.bucket.get(info.key) or b"", info.key)
        if record["log_state"]["commit"] > len(commits):
            broken.append(f"{info.key} is of a commit that the log does not hold")
        elif (keys.number(info.key), record["chain"]) != after[record["log_state"]["commit"]]:
            broken.append(f"{info.key} differs from what the log makes")
    return broken


def _chains(
    virtual: VirtualRun, commits: list[Commit], updates: dict[tuple[int, int], Update]
) -> list[tuple[int, str]]:
    """Return the version and the state after each number of commits, up to the first update that is missing."""
    chain = _start(virtual)
    after = [(0, chain.hex())]
    for commit in commits:
        for step in commit.steps:
            if any((entry.worker, entry.seq) not in updates for entry in step):
                return after
            chain = _advance(chain, [((e.worker, e.seq), updates[e.worker, e.seq].loss, e.weight) for e in step])
        after.append((commit.last_version, chain.hex()))
    return after


def _bounds(virtual: VirtualRun, commits: list[Commit]) -> list[str]:
    """Check promises 5 and 8, and what the schedule itself promises."""
    broken = []
    settings = virtual.settings
    name, _, text = settings.schedule.partition(":")
    next_seq = [0] * settings.workers
    for commit in commits:
        if name in ("bsp", "cohort") and any(entry.staleness for entry in commit.applied):
            broken.append(f"commit {commit.commit} of bsp applies stale updates")
        if name == "pipeline":
            due = [(entry, commits[max(0, entry.seq - int(text))].version) for entry in commit.applied]
            broken += [
                f"update {(e.worker, e.seq)} is of version {e.base}, not {base}" for e, base in due if e.base != base
            ]
        if name in ("bsp", "cohort", "pipeline", "quorum") and len(commit.steps) > 1:
            broken.append(f"commit {commit.commit} takes {len(commit.steps)} steps")
        if name in ("bsp", "cohort", "pipeline") and any(
            [e.worker for e in s] != sorted(e.worker for e in s) for s in commit.steps
        ):
            broken.append(f"commit {commit.commit} sums in another order than by worker")
        if name == "ssp":
            for entry in commit.entries:
                if entry.seq - min(next_seq) > int(text):
                    broken.append(
                        f"worker {entry.worker} leads by {entry.seq - min(next_seq)} at commit {commit.commit}"
                    )
        for entry in commit.entries:
            next_seq[entry.worker] = entry.seq + 1
    for life in virtual.lives:
        reading = life.world.store.meter.snapshot()
        asked = sum(reading.requests.values()) + sum(reading.errors.values())
        lasted = (life.ended_s if life.ended_s is not None else virtual.kernel.now) - life.started_s
        if asked > 100 + REQUESTS_PER_S * lasted:
            broken.append(f"{life.name} made {asked} requests in {lasted:.1f} s")
    return broken


def _deletions(virtual: VirtualRun) -> list[str]:
    """Check promise 13: deletions lie below an existing horizon, and no snapshot above it would demand the update."""
    bucket, broken = virtual.bucket, []
    ever = {gone.key: gone.data for gone in bucket.deleted} | {key: data for key, (data, _) in bucket.objects.items()}

    def next_seq(key: str) -> list[int]:
        record = wire.load_json(ever[key], key)
        found: list[int] = record["log_state"]["next_seq"] if "log_state" in record else record["next_seq"]
        return found

    for gone in bucket.deleted:
        *_, horizon = ["", *gone.standing[keys.HORIZONS]]
        first = wire.load_json(ever[horizon], horizon)["version"] if horizon else 0
        kept = [key for key in gone.standing[keys.SNAPSHOTS] if keys.number(key) >= first]
        if not kept:
            broken.append(f"{gone.key} was deleted while no snapshot stood to go on from")
        if gone.key.startswith((keys.UPDATES, keys.BLOCKS, keys.TRAVEL)):
            worker, seq = (keys.block_id if gone.key.startswith(keys.BLOCKS) else keys.update_id)(gone.key)
            seq += gone.key.startswith(keys.TRAVEL)  # the update after it is computed from it
            demanded = [key for key in [*kept, horizon] if key and next_seq(key)[worker] <= seq]
            if demanded or not horizon:
                broken.append(f"{gone.key} was deleted, which {demanded or 'every replay'} demands")
        elif gone.key.startswith(keys.SNAPSHOTS):
            if keys.number(gone.key) >= first:
                broken.append(f"{gone.key} was deleted before a horizon stood above it")
        elif gone.key.startswith(keys.MEMORY):
            newest = [
                key for key in gone.standing[keys.MEMORY] if key.rpartition("/")[0] == gone.key.rpartition("/")[0]
            ]
            if max(newest, default="") <= gone.key and not virtual.settings.takes_turns:
                broken.append(f"{gone.key} was deleted while no newer one stood")
        elif gone.key.startswith((keys.REDUCED, keys.SUMS)):
            if not horizon or keys.reduced_commit(gone.key) >= keys.number(horizon):
                broken.append(f"{gone.key} was deleted, which a function that goes on may need")
        elif gone.key.startswith(keys.ANNOUNCED):
            continue  # nobody's state rests on it
        elif not gone.key.startswith(keys.HORIZONS) or gone.key > horizon:
            broken.append(f"{gone.key} was deleted")
    return broken


def _bits(virtual: VirtualRun) -> list[str]:
    """Check promise 4: a synchronous run ends with the bits of the undisturbed one, which is computed without a run."""
    delay = virtual.settings.schedule.partition(":")[2] if virtual.settings.schedule.startswith("pipeline") else ""
    cohorts = cohorts_of(virtual.settings)
    settings, after = virtual.settings, [chain := _start(virtual)]
    made: dict[tuple[int, int], int] = {}
    ahead = Parts.of(settings).algorithm.ahead
    for seq in range(settings.steps):
        terms, base = [], seq - int(delay or 0)  # what the round before that did not carry returns with this one
        for worker, one in enumerate(cohorts.members(seq)):
            at = max((turn for who, turn in made if who == one and turn < base), default=-1)
            rest = made.get((one, at), 0) // 4
            unsent = rest + sum(made.get((one, turn), 0) for turn in range(max(0, base), seq))
            number = chain_digest(after[max(0, base)], worker, seq, unsent if ahead else 0)
            if remembers(virtual):
                made[one, seq] = (round(number * WHOLE) + rest) % WHOLE
                number = made[one, seq] / WHOLE
            terms.append(((worker, seq), number, 1.0))
        after.append(chain := _advance(chain, terms))
    model = virtual.bucket.get(keys.MODEL)
    right = model is None or wire.load_json(model, keys.MODEL)["chain"] == chain.hex()
    return [] if right else ["the result is not that of the undisturbed run"]


def _start(virtual: VirtualRun) -> bytes:
    return hashlib.blake2b(f"{virtual.settings.seed}".encode(), digest_size=16).digest()


def _advance(chain: bytes, terms: list[tuple[tuple[int, int], float, float]]) -> bytes:
    return hashlib.blake2b(chain + repr(terms).encode(), digest_size=16).digest()
