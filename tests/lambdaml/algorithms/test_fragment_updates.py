"""What an update with one fragment holds, what its worker remembers, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.algorithms.fragments import Carried, divide
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.commits import averaged
from lambdaml.training.replica import Replica
from tests.lambdaml.algorithms.streaming import NESTEROV, job, rounds, streaming
from tests.lambdaml.lab import broken_off, equal, memory, model_bytes, settings_of, train


def test_an_update_that_is_rejected_leaves_its_worker_where_it_was() -> None:
    """The worker takes over both fragments that moved since the update before it, and goes on from its own values of the
    third."""
    made = job()
    replica = Replica(made, settings_of(made, workers=2, steps=9, algorithm=f"local:3,{NESTEROV},fragments=3"))
    for seq in range(4):
        sent = [replica.update(worker, seq) for worker in range(2)]
        replica.apply(averaged(seq, seq, sent), {update.id: update for update in sent})
    kept = replica.memories.of(0, 4).arrays["own"].copy()
    sent = [replica.compute(replica.assign(0, 4)).update(replica.assign(0, 4), "fp32", 1, "f")]
    sent[0].fault = "gradient is not finite"
    replica.remember(sent[0])
    other = replica.update(1, 4)
    replica.apply(averaged(4, 4, [other]), {other.id: other})
    memory, layout = replica.memories.of(0, 5), replica.flat.layout
    assert np.array_equal(memory.arrays["own"], kept)
    replica.local.commit = replica.log_state.commit
    carried = Carried.resume(replica.local, replica.flat.values(), 3, memory)
    for fragment, numbers in enumerate(divide(layout, 3)):
        source = kept if fragment == 2 else replica.flat.values()
        for number in numbers:
            assert np.array_equal(carried.values[layout.spans[number]], source[layout.spans[number]])


def spoilt(model: nn.Module, batch: Any) -> torch.Tensor:
    """A loss that is not finite for about every tenth batch."""
    x, y = batch
    return nn.functional.cross_entropy(model(x), y) / float(x[0, 0] < 1.2)


@pytest.mark.parametrize("schedule", ["bsp", "pipeline:1"])
def test_a_run_with_rejected_updates_has_the_same_bits_whoever_computes_it(schedule: str) -> None:
    made = job(loss=spoilt)
    options: dict[str, Any] = {"workers": 3, "steps": 12, "algorithm": f"local:4,{NESTEROV},fragments=2"}
    options |= {"schedule": schedule, "snapshot_every": 3, "recover_s": 1e-9}
    alone = train(made, functions=1, **options)
    rejected = alone.summary().fates["rejected"]
    assert 2 < rejected < 18
    assert lambdaml.Run(alone.store, made).verify(deep=1.0).faults == []
    for functions in (2, 3):
        assert model_bytes(train(made, functions=functions, **options)) == model_bytes(alone)
    left = broken_off(made, at=7, functions=3, **options)
    lambdaml.resume(left.store, job=made)
    assert model_bytes(left) == model_bytes(alone)


class Branches(nn.Module):
    """Only one of the heads is reached by a batch, and never the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(4))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads[int(x[0, 0] > 0)](x) + self.heads[2](x)


def test_a_parameter_is_absent_if_no_batch_reached_it_since_it_was_taken_over() -> None:
    made = job(model=Branches)
    unreached = {number for number, (name, _) in enumerate(Branches().named_parameters()) if "3." in name}
    started = [parameter.detach().clone() for parameter in Branches().parameters()]
    told = set()
    for replica, sent in rounds(made, f"local:4,{NESTEROV},fragments=4", 2, 12):
        for update in sent:
            fragment = set(divide(replica.flat.layout, 4)[update.seq % 4])
            absent = set(update.body["absent"].tolist()) if "absent" in update.body else set()
            assert fragment & unreached <= absent <= fragment
            vector, at = update.body["gradient"], 0
            for number in sorted(fragment):
                size = replica.flat.layout.spans[number].stop - replica.flat.layout.spans[number].start
                assert bool(vector[at : at + size].any()) == (number not in absent)
                at += size
            told |= absent
    assert told > unreached and len(started) == 8
    assert all(replica.optimizer.state_dict()["state"].get(number) is None for number in unreached)


class Words(nn.Module):
    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(500, 4, sparse=sparse)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table((x.abs() * 100).long().clamp(max=499)).mean(1))


def test_rows_of_embeddings_travel_within_their_fragment() -> None:
    made, dense = (
        job(model=lambda sparse=sparse: Words(sparse), optimizer=lambda ps: torch.optim.SGD(ps, lr=0.1))
        for sparse in (True, False)
    )
    plain = streaming(dense, 2, 1, 2, 6)
    for (found, sent), expected in zip(rounds(made, f"local:2,{NESTEROV},fragments=2", 2, 6), plain, strict=False):
        assert equal(dict(found.model.state_dict()), dict(expected.state_dict()))
        assert all(("r0" in update.body) == (update.seq % 2 == 0) for update in sent)
        assert max(update.body["gradient"].nbytes for update in sent) < 4 * 4 * 250


def test_fragments_of_vectors_alone_travel_with_a_codec_for_matrices() -> None:
    made, options = job(), {"algorithm": f"local:6,{NESTEROV},fragments=6", "codec": "powersgd:2"}
    run = train(made, workers=2, steps=12, **options)
    assert len({info.size_bytes for info in run.store.list(keys.UPDATES)}) >= 6
    assert lambdaml.Run(run.store, made).verify(deep=1.0).faults == []


def test_an_update_of_another_fragment_is_rejected() -> None:
    made = job()
    replica = Replica(made, settings_of(made, workers=1, steps=9, algorithm="local:2,fragments=2"))
    update = replica.update(0, 0)
    assert replica.check(update) == ""
    for wrong in (
        np.array([1], np.int32),
        np.array([0], np.int64),
        np.array([0, 1], np.int32),
        np.array([9], np.int32),
    ):
        update.body["fragment"] = wrong
        assert replica.check(update) == "does not carry fragment 0 of 2"
    del update.body["fragment"]
    assert replica.check(update) == "does not carry fragment 0 of 2"
    plain = Replica(made, settings_of(made, workers=1, steps=9, algorithm="local:2"))
    update = plain.update(0, 0)
    update.body["fragment"] = np.array([0], np.int32)
    assert plain.check(update) == "does not carry fragment 0 of 1"


def test_a_residual_waits_undecayed_for_the_turn_of_its_fragment() -> None:
    made = job()
    options = {"algorithm": "local:2,fragments=2", "codec": "bf16", "error_feedback": 0.5}
    replica = Replica(made, settings_of(made, workers=1, steps=9, **options))
    held = []
    for seq in range(6):
        update = replica.update(0, seq)
        replica.apply(averaged(seq, seq, [update]), {update.id: update})
        held.append(replica.memories.of(0, seq + 1).arrays["residual"].copy())
    spans, fragments = replica.flat.layout.spans, divide(replica.flat.layout, 2)
    for seq in range(1, 6):
        for number in fragments[(seq + 1) % 2]:
            assert held[seq][spans[number]].any() and np.array_equal(
                held[seq][spans[number]], held[seq - 1][spans[number]]
            )


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no divisor": ({"algorithm": "local:20,fragments=3"}, ["3 fragments do not divide 20 steps"]),
    "none": ({"algorithm": "local:20,fragments=0"}, ["fragments must be 1 or more, not 0"]),
    "auto": ({"algorithm": "local:auto,fragments=2"}, ["'local:20,fragments=4'"]),
    "epochs": ({"algorithm": "local:epochs=1,fragments=2"}, ["'local:20,fragments=4'"]),
    "asp": ({"algorithm": "local:4,fragments=2", "schedule": "asp"}, ["'local:4,fragments=2'", "'asp'", "bsp"]),
    "ssp": ({"algorithm": "local:4,fragments=2", "schedule": "ssp:2"}, ["'ssp:2'", "pipeline"]),
    "quorum": ({"algorithm": "local:4,fragments=2", "schedule": "quorum:2"}, ["'quorum:2'", "same one"]),
    "a long pipeline": (
        {"algorithm": "local:4,fragments=2", "schedule": "pipeline:2"},
        ["'pipeline:2'", "more than 2"],
    ),
    "scatter": ({"algorithm": "local:4,fragments=2", "pattern": "scatter"}, ["'scatter'", "gather or tree"]),
    "a rule with momentum": (
        {"algorithm": "local:4,fragments=2", "staleness": "nesterov"},
        ["'nesterov'", "'local:4,fragments=2'", "whole model"],
    ),
    "few parameters": ({"algorithm": "local:14,fragments=7"}, ["7 fragments", "only 6"]),
    "few updates": ({"algorithm": "local:4,fragments=4", "steps": 3}, ["4 fragments", "only 3"]),
    "few epochs": ({"algorithm": "local:4,fragments=4", "epochs": 1}, ["4 fragments", "only 3"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(what: str) -> None:
    options, words = REFUSED[what]
    store = memory()
    with pytest.raises(SettingsError) as caught:
        lambdaml.train(job(), store, workers=3, **{"steps": 9, **options} if "epochs" not in options else options)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), caught.value
    assert [info.key for info in store.list("")] == []
