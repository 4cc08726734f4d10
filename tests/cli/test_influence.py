"""`lambdaml influence`: the ranking in the terminal and in files, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import lambdaml
from lambdaml.log.controls import changes
from lambdaml.storage import copy, open_store
from tests.cli.conftest import Cli, Trained
from tests.lambdaml.lab import broken_off

JOB = f"{Path(__file__).resolve().parents[2] / 'examples' / 'clients.py'}:Clients"
OPTIONS = {"workers": 6, "schedule": "cohort:2", "algorithm": "local:2", "steps": 6, "engine": "inline"}


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six clients, one of whom is harmful, with recorded gradients."""
    place = tmp_path_factory.mktemp("influence") / "clients"
    lambdaml.train(JOB, str(place), args={"clients": 6, "harmful": 1}, extra="per-sample:5", **OPTIONS)
    return place


def test_the_ranking_is_shown_with_the_truth_beside_it(cli: Cli, federated: Path) -> None:
    ended = cli("influence", federated, "--truth")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith("client"))
    assert lines[heading].split() == "client samples turns FIL FIA true FIL true FIA distance".split()
    assert len({line.split()[0] for line in lines[heading + 1 : heading + 7]}) == 6
    assert "was the most valuable: without it the evaluation loss would be" in " ".join(ended.out.split())
    assert "Correlation of estimate and truth" in ended.out


def test_json_csv_and_the_page_have_the_same_clients(cli: Cli, federated: Path, tmp_path: Path) -> None:
    found = cli("influence", federated, "--json", "--html", tmp_path / "page.html").json
    order = [each["client"] for each in found["clients"]]
    assert (found["estimator"], found["version"], found["dropped"]) == ("fisher", 6, [])
    rows = list(csv.DictReader(cli("influence", federated, "--csv", "-").out.splitlines()))
    assert [int(row["client"]) for row in rows] == order
    assert float(rows[0]["FIL"]) == pytest.approx(found["clients"][0]["influence"]["loss"])
    assert f"Client {order[0]} was the most valuable" in (tmp_path / "page.html").read_text()


def test_exact_estimates_need_no_recorded_gradients(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "plain"
    lambdaml.train(JOB, str(place), args={"clients": 6, "harmful": 1}, keep="all", **OPTIONS)
    ended = cli("influence", place)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.strip().endswith("train with --extra per-sample:50, or use --estimator exact")
    assert cli("influence", place, "--estimator", "exact", "--at", 4, "--json").json["version"] == 4


def test_the_lowest_are_left_out_of_a_run_that_goes_on(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "going"
    given = OPTIONS | {"steps": 12, "extra": "per-sample:5", "args": {"clients": 6, "harmful": 1}}
    copy(broken_off(JOB, at=4, **given).store, open_store(f"file://{place}"))
    ended = cli("influence", place, "--drop-lowest", "0.34@4", "--json")
    assert ended.code == 0, ended.err
    dropped, ranking = ended.json["dropped"], [each["client"] for each in ended.json["clients"]]
    assert len(dropped) == 2 and set(dropped) == set(ranking[-2:])
    assert [(control.what, control.value) for control, _ in changes(lambdaml.Run(str(place)))] == [("without", dropped)]
    asked = " ".join(cli("influence", place, "--drop-lowest", "0.34@4").out.split())
    assert f"Asked for: without {dropped[0]}, {dropped[1]}, within a few seconds" in asked


MISTAKES = {
    "another estimator": (("--estimator", "fischer"), "there is no estimator 'fischer' (did you mean 'fisher'?)"),
    "another truncation": (("--truncation", "all"), "there is no truncation 'all'"),
    "a version that is not there": (("--at", "9"), "this run has no version 9 yet: the last is 6"),
    "two versions": (("--drop-lowest", "0.1@3", "--at", "3"), "--drop-lowest says which version: leave out --at"),
    "no version": (("--drop-lowest", "0.1"), "takes a share below 1 and a version, as in 0.1@700, not '0.1'"),
    "a run that has ended": (("--drop-lowest", "0.1@3"), "has ended at version 6: clients can be left out while"),
}


@pytest.mark.parametrize(("options", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_clear_line(cli: Cli, federated: Path, options: tuple[str, ...], words: str) -> None:
    ended = cli("influence", federated, *options)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err and len(ended.err.splitlines()) == 1


def test_another_run_than_one_of_averaging_is_refused(cli: Cli, trained: Trained) -> None:
    ended = cli("influence", trained.place)
    assert ended.code == 2 and "schedule 'asp' has no rounds of the newest model" in ended.err
