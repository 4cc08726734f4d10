"""Measuring a job, with progress: for `profile`, and for what plans without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambdaml.cli._interrupt import interruptible
from lambdaml.cli._progress import Share

if TYPE_CHECKING:
    from lambdaml import Profile


def measured(job: str, **options: Any) -> Profile:
    """`lambdaml.profile` with these options, while its progress is shown."""
    import lambdaml

    with Share(f"measuring {job}") as share, interruptible(share.stop, share.close):
        return lambdaml.profile(job, **options, progress=lambda done, phase: share(done))
