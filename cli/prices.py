"""The verb `lambdaml prices`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options
from lambdaml.errors import UserError

if TYPE_CHECKING:
    from lambdaml.cost.billing.refresh import Refreshed

File = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        metavar="FILE",
        help="Your file of prices, in place of `$LAMBDAML_PRICES` or `~/.config/lambdaml/prices.toml`.",
    ),
]
Refresh = Annotated[
    bool,
    typer.Option(
        "--refresh", help="Ask the AWS Price List API, with your credentials, and write its prices to your file."
    ),
]


def prices(file: File = None, refresh: Refresh = False, as_json: _options.Json = False) -> int:
    """List the prices that bills and plans use, and where each was found.

    Prices in your file replace the packaged ones.
    """
    from lambdaml.cost.billing.prices import PriceBook, user_file

    if file is not None and not refresh and not file.is_file():
        raise UserError(f"there is no file {file}")
    own = file or user_file()
    book = PriceBook.load(*([own] if own.is_file() else []))
    if refresh:
        from lambdaml.cost.billing.refresh import refresh as ask

        done = ask(own, book)
        if not as_json:
            _print_refreshed(done)
            return 0 if done.prices else 1
        book = PriceBook.load(own) if done.prices else book
    if as_json:
        _format.print_json([asdict(price) for price in book.values()])
        return 0
    rows = [[price.id, f"{price.usd:.6g}", price.unit, price.date, price.how, price.source] for price in book.values()]
    _format.print_table(
        ["price", "USD", "a", "date", "how", "source"], rows, left=["price", "a", "date", "how", "source"]
    )
    print()
    _format.print_text(f"your own prices: {own}{'' if own.is_file() else ' (there is none)'}")
    return 0


def _print_refreshed(done: Refreshed) -> None:
    for id, (before, now) in done.changed.items():
        print(f"changed    {id}: {before:.6g} -> {now:.6g}")
    for id, reason in done.failed.items():
        print(f"kept       {id}: {reason}")
    print(f"unchanged  {len(done.prices) - len(done.changed)} of {len(done.prices)} prices that AWS told")
    print(f"not asked  {', '.join(done.untouched)}")
    if done.prices:
        print(f"written    {done.file}")
