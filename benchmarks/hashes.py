"""Print the bits of the three examples, for docs/promises.md: one table for each numerics class that this CPU can have.

    python benchmarks/hashes.py

Each uses two workers, one function, `bsp`, 30 steps, and seed 7. The same class must give the same SHA-256 on every
machine; `tests/lambdaml/training/test_numerics.py` computes that of the digits again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lambdaml.log.numerics import Numerics

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
JOBS = ("digits.py:Digits", "cnn.py:DigitsCNN", "charlm.py:CharLM")
HOW = "--workers 2 --functions 1 --schedule bsp --steps 30 --seed 7 --json".split()


def main() -> None:
    for environment in ({}, {"MKL_CBWR": "COMPATIBLE"}):
        found = {}
        for job in JOBS:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "lambdaml.cli", "train", f"{EXAMPLES / job}", "--store", folder, *HOW]
                done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=True)
                found[job] = json.loads(done.stdout)["model_sha256"]
                run = json.loads((Path(folder) / "run.json").read_bytes())
        print(f"{Numerics(**run['numerics'])}\n\n| example | SHA-256 of `model.safetensors` |\n|---|---|")
        for job, sha256 in found.items():
            print(f"| `examples/{job}` | `{sha256}` |")
        print()


if __name__ == "__main__":
    main()
