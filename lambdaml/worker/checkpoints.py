"""Checkpoints: at each, a function takes the digest of its state and compares it with the digests of the others."""

from __future__ import annotations

from collections.abc import Collection

from lambdaml.errors import ReplicaDiverged
from lambdaml.log.records import Commit, Digest, Update
from lambdaml.worker.backlog import Backlog
from lambdaml.worker.committer import Committer
from lambdaml.worker.shared import Shared


class Checkpoints:
    """The digests of one function's states. A function that holds worker 0 also writes the states as snapshots."""

    def __init__(self, shared: Shared, backlog: Backlog, committer: Committer) -> None:
        self._shared = shared
        self._backlog = backlog
        self._committer = committer
        self._digests: dict[int, str] = {}  # by commits taken
        self._newest: tuple[int, Digest] | None = None  # with its version

    def digest_at(self, version: int) -> Digest | None:
        """Return the newest digest if it is that of this version's state. An update computed from it carries it."""
        return self._newest[1] if self._newest is not None and self._newest[0] == version else None

    async def take(self) -> None:
        """Note the state's digest. If this function writes the log, have the state written as a snapshot."""
        shared, committer = self._shared, self._committer
        state = await shared.world.compute(shared.replica.shared_state)  # nothing changes the state while workers hold
        if shared.writes_log:
            committer.making_bytes = state.size_bytes  # the snapshot takes the place of the applied updates
        self._backlog.let_go()
        sha256 = await shared.world.background(state.digest)
        digest = Digest(state.meta["log_state"]["commit"], sha256)
        self._digests[digest.commits] = sha256
        self._newest = state.version, digest
        if shared.writes_log:
            committer.digest = digest
            await committer.take_snapshot(state, sha256)
        committer.making_bytes = 0

    def compare(self, commit: Commit, updates: Collection[Update]) -> None:
        """Compare the digests that a commit and its updates carry with this function's.

        Raises:
            ReplicaDiverged: If they differ.
        """
        claims = [(update.digest, update.function) for update in updates if update.digest]
        if commit.digest:
            claims.append((commit.digest, commit.function))
        for digest, function in claims:
            if self._digests.get(digest.commits, digest.sha256) != digest.sha256:
                raise ReplicaDiverged(
                    f"{self._shared.name} and {function} disagree about the state after {digest.commits} commits: "
                    "does the job compute from anything but weights, batch and seeds (a clock, a file, a plain attribute), or do "
                    "functions run on different processors?"
                )
