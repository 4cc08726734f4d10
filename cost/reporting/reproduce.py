"""The command that trains a run again from its run.json."""

from __future__ import annotations

import shlex

from lambdaml.cost.planning.command import job_word, set_words
from lambdaml.options import RunOptions
from lambdaml.settings import Settings

_OPTIONS = (
    "workers schedule algorithm steps target codec error_feedback staleness aggregate tune pattern bracket partition extra "
    "seed batch_size snapshot_every max_update_norm coherence announce_s"
).split()
"""The settings that decide what comes out."""


def again_command(settings: Settings, url: str) -> str:
    """Return a command that makes the same updates in another place: `train` with the options that differ from the defaults, or,
    if clients are left out, `rerun` with the run's URL."""
    if settings.without:
        return shlex.join(["lambdaml", "rerun", url])
    words = ["lambdaml", "train", job_word(settings.job.spec), *set_words(settings.job.args)]
    usual = RunOptions()
    for name in _OPTIONS:
        value = getattr(settings, name)
        resolved = Settings.model_fields[name].default if name != "bracket" else "flat"
        if value in (getattr(usual, name), resolved, None) and name != "workers":
            continue
        option = f"--{name.removesuffix('_s').replace('_', '-')}"
        words += [option] if value is True else [option, f"{value:g}" if isinstance(value, float) else str(value)]
    if settings.clients is not None:
        words[words.index("--workers") + 1] = str(settings.clients)
    if settings.numerics is not None and settings.numerics.mode != usual.numerics:
        words += ["--numerics", settings.numerics.mode]
    if settings.init_from is not None:
        words += ["--from", str(settings.init_from)]
    return shlex.join(words)
