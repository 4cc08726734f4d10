"""Every example is short, and learns with nothing but a plain PyTorch loop."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lambdaml.job import Job
from lambdaml.training.loading import load_job

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
JOBS = ["digits.py:Digits", "cnn.py:DigitsCNN", "charlm.py:CharLM", "clients.py:Clients"]
SCRIPTS = ["ray_train.py"]  # tested in files of their own


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job(name: str, **args: Any) -> Job:
    return load_job(str(EXAMPLES / name), args)


def evaluate(job: Job, model: torch.nn.Module) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        metrics = dict(job.evaluate(model))
    model.train()
    return metrics


def plain_loop(job: Job, steps: int, workers: int = 4) -> Iterator[tuple[torch.nn.Module, float]]:
    """Train with the batch that `workers` workers would average over; yields the model and its loss at each step."""
    torch.manual_seed(0)
    model = job.model()
    optimizer = job.optimizer(model)
    scheduler = job.scheduler(optimizer)
    loader = DataLoader(job.dataset(), job.batch_size * workers, shuffle=True, collate_fn=job.collate)
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), steps):
        optimizer.zero_grad()
        loss = job.loss(model, batch)
        loss.backward()
        if job.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), job.clip_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        yield model, loss.item()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_under_sixty_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def test_every_example_is_tested_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {name.partition(":")[0] for name in JOBS + SCRIPTS}


@pytest.mark.parametrize("name", JOBS)
def test_the_loss_falls_and_the_metrics_are_finite_floats(name: str) -> None:
    subject = job(name)
    *_, (model, _) = history = list(plain_loop(subject, steps=20))
    losses = [loss for _, loss in history]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    metrics = evaluate(subject, model)
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert "loss" in metrics


@pytest.mark.parametrize("name", JOBS)
def test_constructing_a_job_loads_nothing_and_its_data_is_loaded_once(name: str) -> None:
    subject = job(name)
    before = dict(vars(subject))
    assert all(not isinstance(value, torch.Tensor) for value in before.values())
    model = subject.model()
    subject.dataset()
    (cached,) = vars(subject).keys() - before.keys()
    value = vars(subject)[cached]
    evaluate(subject, model)
    subject.dataset()
    assert vars(subject)[cached] is value


@pytest.mark.parametrize("name", ["digits.py:Digits", "cnn.py:DigitsCNN"])
def test_the_digits_reach_95_percent_within_six_epochs_of_four_workers(name: str) -> None:
    subject = job(name)
    steps = 6 * math.ceil(1437 / 128)
    *_, (model, _) = plain_loop(subject, steps)
    assert evaluate(subject, model)["accuracy"] >= 0.95


def test_the_digits_are_split_1437_to_360_and_standardised_by_the_training_images() -> None:
    (x_train, y_train), (x_test, y_test) = job("digits.py:Digits").data  # type: ignore[attr-defined]
    assert x_train.shape == (1437, 64) and x_test.shape == (360, 64)
    assert len(y_train) == 1437 and len(y_test) == 360
    assert x_train.mean(0).abs().max() < 1e-5 < x_test.mean(0).abs().max()


def test_batch_norm_statistics_are_buffers_that_training_moves() -> None:
    subject = job("cnn.py:DigitsCNN")
    *_, (model, _) = plain_loop(subject, steps=2)
    buffers = dict(model.named_buffers())
    assert any(name.endswith("running_mean") and value.abs().sum() > 0 for name, value in buffers.items())


def test_the_character_model_reads_a_text_of_the_users(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("über allen Gipfeln ist Ruh. " * 200, encoding="utf-8")
    subject = job("charlm.py:CharLM", text=str(text), context=16)
    (rows,) = subject.dataset()[0]
    assert bytes(rows.tolist()).decode() == text.read_text(encoding="utf-8")[:16]
    *_, (model, _) = plain_loop(subject, steps=2)
    metrics = evaluate(subject, model)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]), rel=1e-4)


def test_the_character_model_cannot_see_what_follows() -> None:
    model = job("charlm.py:CharLM").model().eval()
    one, other = torch.zeros(1, 64, dtype=torch.int64), torch.zeros(1, 64, dtype=torch.int64)
    other[0, 40:] = 7
    with torch.no_grad():
        same, changed = (model(one) - model(other)).abs().amax(-1)[0].split((40, 24))
    assert same.max() == 0 and changed.max() > 0
