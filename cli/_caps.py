"""The options of `train` and `resume` that limit what a run may spend."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.errors import SettingsError, UserError

if TYPE_CHECKING:
    from lambdaml import Caps

_CAPS = "What the run may spend"
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0}

Budget = Annotated[
    float | None,
    typer.Option(
        metavar="USD",
        help="Stop before the run costs more than this, counted over all calls; needs --as.",
        rich_help_panel=_CAPS,
    ),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Stop before this command takes longer than this: `20m`, `1h30m`.", rich_help_panel=_CAPS
    ),
]
MaxRequests = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="Stop before the run makes more requests than this, counted over all calls: `1e6`.",
        rich_help_panel=_CAPS,
    ),
]
As = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="PLATFORM",
        help="The platform whose prices --budget counts for functions: `lambda-arm:1769` (memory in MB), `spot`, or "
        "`local`, "
        "which costs nothing.",
        rich_help_panel=_CAPS,
    ),
]
StoreAs = Annotated[
    str | None,
    typer.Option(
        metavar="STORE",
        help="The store whose prices --budget counts for requests: `s3-standard`, `s3-express` ...; by default the "
        "kind of "
        "store that is used.",
        rich_help_panel=_CAPS,
    ),
]


def caps(
    url: str,
    budget: float | None,
    deadline: str | None,
    max_requests: float | None,
    platform: str | None,
    store_as: str | None,
) -> Caps | None:
    """Return the caps that these options ask for, or None if they ask for none.

    Raises:
        UserError: If they do not fit together, or mean nothing.
    """
    if budget is None and (platform or store_as):
        raise UserError(f"{'--as' if platform else '--store-as'} says what a --budget is spent on: give one, too")
    if budget is None and deadline is None and max_requests is None:
        return None
    import lambdaml

    tariff = None
    if budget is not None:
        if platform is None:
            raise UserError("--budget: say what functions cost with --as, for example --as lambda-arm:1769")
        from lambdaml.cost.billing.bill import channel_of

        try:
            tariff = lambdaml.Tariff(lambdaml.prices(), store_as or channel_of(url), platform)
        except SettingsError as error:
            raise UserError(f"--budget: {error}") from None
    return lambdaml.Caps(budget, None if deadline is None else seconds(deadline), max_requests, tariff)


def seconds(text: str) -> float:
    """Convert a time such as `90`, `20m` or `1h30m` to seconds.

    Raises:
        UserError: If the text is no such time.
    """
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    if not text.strip() or found is None:
        raise UserError(f"{text!r} is no time: write 90s, 20m or 1h30m")
    return sum(float(number) * unit for number, unit in zip(found.groups(), _UNITS_S.values(), strict=True) if number)
