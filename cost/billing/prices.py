"""Prices: what a unit of each billed thing costs, where that was learned, and when.

    book = lambdaml.prices("my-prices.toml")     # the packaged books (cost/data/*.toml), the user's, and this file on top
    book["s3-standard/get"].usd, book["s3-standard/get"].origin

A price's id is `place/item`. A place is a store, something that runs functions, or `transfer`; `ITEMS` lists its items
and their units. No price is written in code.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from lambdaml.errors import SettingsError, nearest

ITEMS: dict[str, tuple[str, ...]] = {
    "invocation": ("request",),
    "duration": ("GB-second",),
    "ephemeral": ("GB-second",),
    "instance": ("hour",),
    "vcpu": ("vCPU-second",),
    "memory": ("GB-second",),
    "operation": ("request",),
    "put": ("request",),
    "list": ("request",),
    "get": ("request",),
    "delete": ("request",),
    "ecpu": ("ECPU",),
    "bytes-in": ("GB",),
    "bytes-out": ("GB",),
    "storage": ("GB-month", "GB-hour"),
    "server": ("hour",),
    "same-region": ("GB",),
    "cross-region": ("GB",),
    "internet": ("GB",),
    "nat": ("GB",),
}
"""The second half of an id, and the units that it may have."""

HOW_TO_PRICE = {
    "read": "read in the source named",
    "memory": "from memory",
    "assumed": "assumed",
    "listed": "asked of the AWS Price List API",
    "given": "given by a user's file",
}
"""The ways in which a price may have been learned."""

BILLING_RULES = ("step_s", "minimum_s", "minimum_gb", "minimum_count")
"""The fields of a price that are rules of billing."""

PRODUCTS = "products.toml"
"""The packaged file that is no price book; see `lambdaml.cost.billing.refresh`."""

PRICES_VARIABLE = "LAMBDAML_PRICES"


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a unit of something.

    Attributes:
        id: The name of the price, `place/item`.
        usd: The US dollars of one unit, without tax.
        unit: The unit; a GB is 2^30 bytes, a GB-second 1,024 MB of memory for a second, a month 730 hours.
        source, date: The place where the price was found and the date when, as exactly as it is known.
        how: The way in which it was learned, one of `HOW_TO_PRICE`.
        step_s: The seconds to whose next multiple each function's time is rounded up, or 0 if it is not rounded.
        minimum_s: The least seconds that are billed for each function.
        minimum_gb: The least GB of storage that are billed.
        minimum_count: The least instances that are billed as long as the run lasts.
    """

    id: str
    usd: float
    unit: str
    source: str
    date: str
    how: str = "given"
    step_s: float = 0.0
    minimum_s: float = 0.0
    minimum_gb: float = 0.0
    minimum_count: float = 0.0

    def __post_init__(self) -> None:
        """Raise SettingsError, without the file's name, if this is not a valid price."""
        item = self.id.partition("/")[2]
        if item not in ITEMS:
            raise SettingsError(f"there is no price {self.id!r}: an id is place/item, item being one of those in ITEMS")
        if self.unit not in ITEMS[item]:
            raise SettingsError(f"{self.id}: unit must be {' or '.join(ITEMS[item])}, not {self.unit!r}")
        if self.how not in HOW_TO_PRICE:
            raise SettingsError(f"{self.id}: how must be one of {', '.join(HOW_TO_PRICE)}, not {self.how!r}")
        for name in ("usd", *BILLING_RULES):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise SettingsError(f"{self.id}: {name} must be a number that is not negative, not {value!r}")
        for name in ("source", "date"):
            if not isinstance(getattr(self, name), str):
                raise SettingsError(f"{self.id}: {name} must be text, not {getattr(self, name)!r}")

    @property
    def place(self) -> str:
        """The store or platform that the price belongs to."""
        return self.id.partition("/")[0]

    @property
    def item(self) -> str:
        """The billed thing, a key of `ITEMS`."""
        return self.id.partition("/")[2]

    @property
    def origin(self) -> str:
        """The source with its date: `AWS Lambda pricing ... (2026-05, read in the source named)`."""
        return f"{self.source} ({self.date}, {HOW_TO_PRICE[self.how]})"


_FIELDS = {field.name for field in fields(Price)}
_NEEDED = ("id", "usd", "unit")


class PriceBook(Mapping[str, Price]):
    """A book of prices by id."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = dict(prices)
        self._places: dict[str, dict[str, Price]] = {}
        for price in self._prices.values():
            self._places.setdefault(price.place, {})[price.item] = price

    @classmethod
    def load(cls, *files: str | os.PathLike[str]) -> PriceBook:
        """Load the packaged prices, each replaced by a user's file that has it; later files win.

        A user's file is TOML: `[[price]]` tables with `id`, `usd` and `unit`, and perhaps `source`, `date`, `how`.
        Rules of billing (`step_s` ...) that it leaves out stay as packaged.

        Raises:
            SettingsError: If a file cannot be read, or has an id that does not exist, a unit that is missing or not the
                price's, or a price that is negative. The message names the file and the price.
        """
        book = cls(_packaged())
        for file in files:
            book = book.replaced(read_prices(Path(file), book))
        return book

    def replaced(self, prices: Mapping[str, Price]) -> PriceBook:
        """Return this book with these prices instead of its own."""
        return PriceBook({**self._prices, **prices})

    def place(self, name: str) -> Mapping[str, Price]:
        """Return the prices of a store or platform by item, which may be none."""
        return self._places.get(name, {})

    @property
    def places(self) -> tuple[str, ...]:
        """The stores and platforms that have a price."""
        return tuple(self._places)

    def __getitem__(self, id: str) -> Price:
        """Return the price. Raises SettingsError, with the nearest ids, for an id that does not exist."""
        if id not in self._prices:
            raise SettingsError(f"there is no price {id!r}{nearest(id, self._prices)}")
        return self._prices[id]

    def __contains__(self, id: object) -> bool:
        return id in self._prices

    def __iter__(self) -> Iterator[str]:
        return iter(self._prices)

    def __len__(self) -> int:
        return len(self._prices)


def user_file() -> Path:
    """Return the file of a user's own prices: `$LAMBDAML_PRICES`, or `lambdaml/prices.toml` in the settings folder."""
    if place := os.environ.get(PRICES_VARIABLE):
        return Path(place)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "lambdaml" / "prices.toml"


def prices(*files: str | os.PathLike[str]) -> PriceBook:
    """Return the prices of bills and plans: the packaged ones, your own on top, and these files on top of both.

    Raises:
        SettingsError: If a file cannot be read, or holds no prices; see `PriceBook.load`.
    """
    own = user_file()
    return PriceBook.load(*([own] if own.is_file() else []), *files)


def read_prices(file: Path, book: Mapping[str, Price]) -> dict[str, Price]:
    """Return the prices of a user's file, all of which must be the book's. Raises SettingsError as `load` does."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    found: dict[str, Price] = {}
    for record in _records(text, str(file)):
        id = record["id"]
        if id not in book:
            raise SettingsError(f"{file}: there is no price {id!r}{nearest(str(id), book)}")
        rules = {name: getattr(book[id], name) for name in BILLING_RULES}
        found[id] = _price({"source": file.name, "date": "undated", **rules, **record}, str(file))
        if found[id].unit != book[id].unit:
            raise SettingsError(f"{file}: {id}: unit must be {book[id].unit}, not {found[id].unit!r}")
    return found


@cache
def _packaged() -> dict[str, Price]:
    found: dict[str, Price] = {}
    for file in sorted(resources.files("lambdaml.cost").joinpath("data").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml") and file.name != PRODUCTS:
            for record in _records(file.read_text(encoding="utf-8"), file.name):
                found[record["id"]] = _price(record, file.name)
    return found


def _records(text: str, name: str) -> list[dict[str, Any]]:
    try:
        record = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name} is not TOML: {error}") from None
    prices = record.get("price", [])
    if (
        record.keys() - {"price", "book"}
        or not isinstance(prices, list)
        or not all(isinstance(p, dict) for p in prices)
    ):
        raise SettingsError(f"{name} is no price book: it must hold [[price]] tables, and nothing else")
    for price in prices:
        for field in _NEEDED:
            if field not in price:
                raise SettingsError(f"{name}: the price {price.get('id', '?')!r} needs {field}")
        for field in price:
            if field not in _FIELDS:
                raise SettingsError(f"{name}: {price['id']}: a price has no field {field!r}{nearest(field, _FIELDS)}")
    return prices


def _price(record: Mapping[str, Any], name: str) -> Price:
    try:
        return Price(**{**record, "date": str(record["date"])})
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from None
