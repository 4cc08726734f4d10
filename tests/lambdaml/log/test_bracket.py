"""The bracket of a run, and sums that are taken in it, against a plain recursion."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lambdaml.log.bracket import Bracket
from lambdaml.training.step_sum import StepSum, writer

Floats = NDArray[np.float32]


@pytest.mark.parametrize(("text", "group", "levels"), [("flat", 1, 0), ("8", 8, 1), ("2^3", 2, 3)])
def test_a_bracket_reads_what_it_writes(text: str, group: int, levels: int) -> None:
    bracket = Bracket.parse(text)
    assert (bracket.group, bracket.levels, str(bracket)) == (group, levels, text)


@pytest.mark.parametrize("text", ["", "1", "0", "-2", "2^", "2^99", "flat^2", "two"])
def test_what_is_no_bracket_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a bracket"):
        Bracket.parse(text)


@pytest.mark.parametrize(("group", "workers", "levels"), [(2, 1, 1), (2, 2, 1), (2, 5, 3), (32, 1000, 2), (10, 100, 2)])
def test_a_tree_has_as_few_levels_as_possible(group: int, workers: int, levels: int) -> None:
    assert Bracket.tree(group, workers) == Bracket(group, levels)


def plain(bracket: Bracket, vectors: dict[int, Floats], factors: dict[int, float]) -> tuple[Floats, bool]:
    """The sum by a recursion over groups. The sum of one vector is that vector, with its factor still to come."""
    level: dict[int, list[tuple[Floats, float | None]]] = {}
    items: dict[int, tuple[Floats, float | None]] = {w: (v.copy(), factors[w]) for w, v in vectors.items()}
    for _ in range(bracket.levels):
        level = {}
        for number in sorted(items):
            level.setdefault(number // bracket.group, []).append(items[number])
        items = {number: added(each) for number, each in level.items()}
    total, factor = added([items[number] for number in sorted(items)])
    return total, factor is not None


def added(items: list[tuple[Floats, float | None]]) -> tuple[Floats, float | None]:
    if len(items) == 1:
        return items[0]
    scaled = [vector if factor is None else vector * np.float32(factor) for vector, factor in items]
    total = scaled[0]
    for each in scaled[1:]:
        total = total + each
    return total, None


@pytest.mark.parametrize("text", ["flat", "2", "3", "2^2", "2^4", "3^3"])
@pytest.mark.parametrize("workers", [(0,), (3,), (0, 1, 2, 3, 4, 5, 6), (1, 4, 5, 11), tuple(range(16))])
def test_a_sum_has_the_bits_of_a_plain_recursion_in_its_bracket(text: str, workers: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(workers))
    vectors = {w: (rng.standard_normal(257) * 10.0 ** rng.integers(-6, 6)).astype(np.float32) for w in workers}
    factors = {w: float(rng.choice([1.0, 0.7, 1.3])) for w in workers}
    out = np.full(257, np.nan, np.float32)
    total = StepSum(out, Bracket.parse(text))
    for w in workers:
        total.add(w, factors[w], writer(vectors[w]))
    single = total.finish()
    due, alone = plain(Bracket.parse(text), vectors, factors)
    assert single == alone == (len(workers) == 1)
    np.testing.assert_array_equal(out.view(np.uint32), due.view(np.uint32))


def test_the_bracket_changes_bits_so_it_must_be_part_of_the_run() -> None:
    vectors = {w: np.float32([1.0, 1e8, -1e8, 1.0][w]) * np.ones(3, np.float32) for w in range(4)}
    found = {}
    for text in ("flat", "2"):
        found[text] = np.empty(3, np.float32)
        total = StepSum(found[text], Bracket.parse(text))
        for w, vector in vectors.items():
            total.add(w, 1.0, writer(vector))
        total.finish()
    assert found["flat"][0] != found["2"][0]


def test_sums_of_groups_that_others_took_give_the_bits_of_the_whole() -> None:
    rng = np.random.default_rng(5)
    vectors = [rng.standard_normal(100).astype(np.float32) for _ in range(7)]
    factors = [1.0, 0.3, 1.0, 0.9, 1.0, 0.2, 0.7]
    whole = np.empty(100, np.float32)
    total = StepSum(whole, Bracket.parse("3"))
    for w, vector in enumerate(vectors):
        total.add(w, factors[w], writer(vector))
    total.finish()
    joined = np.empty(100, np.float32)
    root = StepSum(joined)
    for start in range(0, 7, 3):
        part = np.empty(100, np.float32)
        group = StepSum(part)
        members = range(start, min(start + 3, 7))
        for w in members:
            group.add(w, factors[w], writer(vectors[w]))
        root.add(start, factors[start] if group.finish() else None, writer(part))
    root.finish()
    np.testing.assert_array_equal(joined.view(np.uint32), whole.view(np.uint32))
