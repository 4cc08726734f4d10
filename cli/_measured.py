"""Measures a job and shows the progress, for `profile` and for verbs that plan without a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambdaml.cli._interrupt import interruptible
from lambdaml.cli._progress import Share

if TYPE_CHECKING:
    from lambdaml import Profile


def measured(job: str, **options: Any) -> Profile:
    """Call `lambdaml.profile` with these options and show its progress."""
    import lambdaml

    with Share(f"measuring {job}") as share, interruptible(share.stop, share.close):
        return lambdaml.profile(job, **options, progress=lambda done, phase: share(done))
