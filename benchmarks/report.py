"""Measure the report of a long run: its building, its size, and how soon a browser has it open.

    python benchmarks/report.py [--updates 100000] [--keep build/long-run]

An `asp` run of 32 workers is played in the virtual world on S3's latency, which takes some ten milliseconds an update, and
its bucket is copied to a folder, which later calls use again. Then the report is made from the folder and opened in a
headless Chromium, five times each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lambdaml
from lambdaml.cost.reporting.page import report_page
from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.storage import open_store

WORKERS, TIMES = 32, 5


def play(place: Path, updates: int) -> None:
    """Play the run, and copy its bucket to a folder."""
    settings = Settings(
        job=JobSettings(spec="none"),
        workers=WORKERS,
        steps=updates // WORKERS,
        schedule="asp",
        batch_size=8,
        samples=8000,
        steps_per_epoch=100,
        parameters=1000,
        snapshot_every=1000,
        token="long",
    )
    costs, channel = Costs(step_s=0.5), Channel.parse("s3-standard")
    run = VirtualRun(settings, WORKERS, costs, channel, Platform.parse("lambda-arm:1769"))
    if not run.run():
        raise SystemExit("the virtual run did not end")
    store = open_store(str(place))
    for key, (data, written_s) in run.bucket.objects.items():
        if not key.startswith("updates/"):  # a report reads no update
            store.put(key, data)
            os.utime(place / key, (written_s, written_s))


def opened_s(page: Path) -> float:
    """Return the seconds until a browser that is running already has drawn all charts of a page."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        begin = time.perf_counter()
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        seconds = time.perf_counter() - begin
        browser.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, default=Path("build/long-run"), help="the folder of the run")
    asked = parser.parse_args()
    if not asked.keep.exists():
        play(asked.keep, asked.updates)
    page, built = Path("build/report.html"), []
    for _ in range(TIMES):
        begin = time.perf_counter()
        found = lambdaml.report(str(asked.keep), platform="lambda-arm:1769", channel="s3-standard")
        page.write_text(report_page([found]))
        built.append(time.perf_counter() - begin)
    shown = [opened_s(page) for _ in range(TIMES)]
    print(
        f"{found.summary.updates:,} updates in {found.summary.commits:,} log entries, {len(found.functions)} functions"
    )
    print(f"page: {page.stat().st_size / 1e6:.2f} MB")
    print(f"built in {median(built):.1f} s (the first time {built[0]:.1f} s, at most {max(built):.1f} s)")
    print(f"open in {median(shown):.2f} s (at most {max(shown):.2f} s)")


if __name__ == "__main__":
    main()
