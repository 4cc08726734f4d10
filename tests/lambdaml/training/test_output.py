"""What the user's code prints and logs is captured for whom it runs, within bounds, and still appears where it did."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from lambdaml.training.output import (
    FUNCTION_BYTES,
    LAST_BYTES,
    LINE_CHARACTERS,
    PART_BYTES,
    Output,
    captured,
    speaking_for,
)


@pytest.fixture
def logger() -> logging.Logger:
    """A logger of which no handler of pytest knows."""
    return logging.Logger("tests.mine", logging.INFO)  # noqa: LOG001


@contextmanager
def capturing() -> Iterator[Output]:
    with captured() as output, output.listening():
        yield output


def said(output: Output) -> list[dict[str, Any]]:
    return [row for row in output.take() if row["kind"] == "log"]


def texts(output: Output) -> list[str]:
    return [row["text"] for row in said(output)]


def test_prints_are_captured_and_still_appear(capsys: pytest.CaptureFixture[str]) -> None:
    with capturing() as output:
        print("one", 2)
        print("three", file=sys.stderr)
    print("afterwards")
    assert [(row["stream"], row["text"]) for row in said(output)] == [("stdout", "one 2"), ("stderr", "three")]
    assert capsys.readouterr() == ("one 2\nafterwards\n", "three\n")


def test_the_streams_are_as_they_were_once_nobody_captures(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, logging.getLogRecordFactory()
    with captured(), captured():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr, logging.getLogRecordFactory()) == before


def test_a_stream_that_somebody_put_over_ours_stays(capsys: pytest.CaptureFixture[str]) -> None:
    before, mine = sys.stdout, io.StringIO()
    try:
        with captured():
            sys.stdout = mine
        assert sys.stdout is mine
    finally:
        sys.stdout = before


def test_lines_say_for_which_update_of_which_worker_the_code_ran() -> None:
    with capturing() as output:
        print("for nobody")
        with speaking_for(3, 7):
            print("for worker 3")
            print("unfinished", end="")
        with speaking_for(4, 0):
            print("for worker 4")
    found = [(row.get("worker"), row.get("seq"), row["text"]) for row in said(output)]
    assert found == [
        (None, None, "for nobody"),
        (3, 7, "for worker 3"),
        (3, 7, "unfinished"),
        (4, 0, "for worker 4"),
    ]


def test_threads_that_work_for_different_functions_are_told_apart() -> None:
    outputs, turns = [Output(), Output()], threading.Barrier(2)

    def work(number: int) -> None:
        with outputs[number].listening():
            for line in range(50):
                turns.wait()
                print(number, line)

    with capturing() as mine, ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert [texts(output) for output in outputs] == [[f"{n} {line}" for line in range(50)] for n in range(2)]
    assert said(mine) == []


def test_a_carriage_return_begins_the_line_anew() -> None:
    with capturing() as output:
        for share in range(0, 101, 10):
            print(f"\r{share} %", end="")
        print()
        print("from Windows\r\nold", end="\r")
        print("new")
    assert texts(output) == ["100 %", "from Windows", "new"]


def test_a_line_that_goes_on_is_cut_where_a_part_ends() -> None:
    with capturing() as output:
        print("first", end=" ")
        assert texts(output) == ["first "]
        print("second")
    assert texts(output) == ["second"]


def test_records_of_logging_have_their_level_and_need_no_handler(logger: logging.Logger) -> None:
    logger.addHandler(logging.NullHandler())
    with capturing() as output:
        logger.warning("careful %d", 3)
        logger.debug("not asked for")
    (row,) = said(output)
    assert (row["level"], row["logger"], row["text"]) == ("WARNING", logger.name, "careful 3")
    assert "stream" not in row


def test_what_a_handler_prints_of_a_record_is_not_captured_twice(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with capturing() as output:
        logger.addHandler(logging.StreamHandler(sys.stderr))
        logger.info("hello")
        print("between")
        try:
            raise ValueError("no label")
        except ValueError:
            logger.exception("failed")
    found = said(output)
    assert [row["text"].splitlines()[0] for row in found] == ["hello", "between", "failed"]
    assert found[2]["text"].splitlines()[-1] == "ValueError: no label"
    assert capsys.readouterr().err.startswith("hello\nfailed\nTraceback")


def test_a_warning_that_no_handler_takes_still_appears_and_is_captured_once(
    capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    with capturing() as output:
        logger.warning("careful")
    assert texts(output) == ["careful"]
    assert capsys.readouterr().err == "careful\n"


def test_a_record_whose_arguments_do_not_fit_breaks_nothing(logger: logging.Logger) -> None:
    logger.addHandler(logging.NullHandler())
    with capturing() as output:
        logger.warning("%d apples", "no")
    assert texts(output) == ["%d apples"]


def test_what_is_printed_while_it_does_not_listen_is_nobodys(capsys: pytest.CaptureFixture[str]) -> None:
    with captured() as output:
        print("by an event handler, for example")
    assert said(output) == []
    assert capsys.readouterr().out == "by an event handler, for example\n"


def test_other_threads_print_as_ever_and_are_not_captured(capsys: pytest.CaptureFixture[str]) -> None:
    with capturing() as output:
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()
    assert said(output) == []
    assert capsys.readouterr().out == "from a thread\n"


def test_of_ten_megabytes_the_first_and_the_last_lines_stay_and_it_is_said_how_many_are_left_out() -> None:
    output, line = Output(), "x" * 99
    for number in range(100_000):
        output.write("stdout", f"{number:5} {line}\n")
    rows = said(output)
    assert len(json.dumps(rows)) < 1.5 * PART_BYTES
    (gap,) = [number for number, row in enumerate(rows) if "left_out" in row]
    numbers = [int(row["text"].split()[0]) for row in rows if "text" in row]
    assert numbers[:gap] == list(range(gap))
    assert numbers[gap:] == list(range(100_000 - len(numbers) + gap, 100_000))
    assert rows[gap]["left_out"] == 100_000 - len(numbers)
    assert min(gap, len(rows) - gap) > 50


def test_a_function_that_has_had_its_bytes_still_has_its_last_lines() -> None:
    output, sizes = Output(), []
    for _ in range(60):
        for number in range(2000):
            output.write("stdout", f"{number} {'x' * 99}\n")
        rows = said(output)
        assert rows[-1]["text"].startswith("1999 ")
        sizes.append(len(json.dumps(rows)))
    assert sum(sizes[:40]) < 1.5 * FUNCTION_BYTES
    assert max(sizes[-10:]) < 1.5 * LAST_BYTES + 500


def test_a_line_without_end_takes_no_more_memory_than_a_long_one() -> None:
    output = Output()
    for _ in range(1000):
        output.write("stdout", "y" * 1000)
    (row,) = said(output)
    assert row["text"] == f"{'y' * LINE_CHARACTERS} ({1_000_000 - LINE_CHARACTERS:,} characters left out)"
