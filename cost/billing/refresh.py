"""Fetch today's prices from the AWS Price List API into the user's own file.

`cost/data/products.toml` says which product has each price. The API needs credentials that may do
`pricing:GetProducts`, is free, and answers for all regions from us-east-1.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from lambdaml.cost.billing.prices import PRODUCTS, Price, PriceBook, read_prices
from lambdaml.errors import PricesUnreachable, SettingsError

REGION = "us-east-1"
"""The region of the prices, and also the one whose API is asked."""


@dataclass(frozen=True, slots=True)
class Product:
    """The product of the API that a price belongs to.

    Attributes:
        id: The id of the price.
        service: The service that sells the product.
        where: The attributes of the product, besides its region.
        region: The name of the attribute that holds the region.
    """

    id: str
    service: str
    where: Mapping[str, str]
    region: str = "regionCode"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The result of asking for prices.

    Attributes:
        prices: The prices that were answered, by id.
        changed: The old and the new price of each id whose price has changed.
        failed: The reason why an id got no price, by id; such prices stay as they are.
        untouched: The ids for which the API was not asked.
        file: The file that was written.
    """

    prices: dict[str, Price]
    changed: dict[str, tuple[float, float]]
    failed: dict[str, str]
    untouched: tuple[str, ...]
    file: Path


@cache
def products() -> tuple[Product, ...]:
    """Return the products to ask for."""
    return tuple(Product(**record) for record in _data()["product"])


def refresh(file: Path, book: PriceBook, client: Any = None) -> Refreshed:
    """Ask for every price that the API has, and write those into the user's file beside its other contents.

    Args:
        book: The packaged prices with the user's own on top of them.
        client: A client of boto3 for `pricing`. Defaults to one with the user's own credentials.

    Raises:
        PricesUnreachable: If there are no credentials, no network or no permission. Nothing is written then.
        SettingsError: If the file cannot be read or written.
    """
    client = client or _client()
    prices: dict[str, Price] = {}
    failed: dict[str, str] = {}
    answers: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for product in products():
        question = (product.service, json.dumps(product.where))
        if question not in answers:
            answers[question] = _ask(client, product)
        try:
            prices[product.id] = _price(product, answers[question], book[product.id])
        except ValueError as error:
            failed[product.id] = str(error)
    if file.is_file():
        read_prices(file, book)  # raises where the file is no price book
    if prices:
        write(prices, file)
    changed = {id: (book[id].usd, price.usd) for id, price in prices.items() if price.usd != book[id].usd}
    untouched = tuple(id for id in book if id not in {product.id for product in products()})
    return Refreshed(prices, changed, failed, untouched, file)


def write(prices: Mapping[str, Price], file: Path) -> None:
    """Put the prices into the user's file, whose other prices and comments stay as they are.

    Raises:
        SettingsError: If the file cannot be written.
    """
    import tomlkit

    document = tomlkit.parse(file.read_text(encoding="utf-8")) if file.is_file() else tomlkit.document()
    if not document.body:
        document.add(tomlkit.comment("`lambdaml prices --refresh` writes prices into this file. What you write stays."))
    tables = document.setdefault("price", tomlkit.aot())
    known = {table["id"]: table for table in tables}
    for price in prices.values():
        if price.id not in known:
            known[price.id] = tomlkit.table()
            tables.append(known[price.id])
        table = known[price.id]
        table.update({name: value for name, value in asdict(price).items() if value or name == "usd" or name in table})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(tomlkit.dumps(document), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot write {file}: {error.strerror}") from None


@cache
def _data() -> dict[str, Any]:
    text = resources.files("lambdaml.cost").joinpath("data", PRODUCTS).read_text(encoding="utf-8")
    return tomllib.loads(text)


def _client() -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    quick = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 2})
    try:
        return boto3.Session().client("pricing", region_name=REGION, config=quick)
    except BotoCoreError as error:
        raise PricesUnreachable(f"cannot ask AWS for prices: {error}") from None


def _ask(client: Any, product: Product) -> list[dict[str, Any]]:
    """Return the products with these attributes, from all pages of the answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    where = {product.region: REGION, **product.where}
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in where.items()]
    try:
        pages = client.get_paginator("get_products").paginate(
            ServiceCode=product.service, Filters=filters, FormatVersion="aws_v1"
        )
        found = [json.loads(text) for page in pages for text in page["PriceList"]]
    except ClientError as error:
        told = error.response["Error"]
        raise PricesUnreachable(f"AWS refused to tell prices: {told['Code']}: {told['Message']}") from None
    except BotoCoreError as error:
        raise PricesUnreachable(f"cannot ask AWS for prices: {error}") from None
    except ValueError:
        raise PricesUnreachable("AWS's answer is not the JSON that it should be") from None
    return [one for one in found if where.items() <= one["product"]["attributes"].items()]


def _price(product: Product, found: list[dict[str, Any]], known: Price) -> Price:
    """Return the price from the answers, with the billing rules of the known price.

    Raises:
        ValueError: If the answers contain no price, or several that differ.
    """
    units = _data()["units"][known.unit]
    tiers = {tier for offer in found for tier in _first_tiers(offer, units)}
    if not tiers:
        raise ValueError(f"no product of {product.service} has its attributes and is counted in {' or '.join(units)}")
    if len({usd for usd, _, _ in tiers}) > 1:
        amounts = ", ".join(sorted({f"{usd:g}" for usd, _, _ in tiers}))
        raise ValueError(f"its attributes fit products with different prices: {amounts}")
    usd, sku, date = min(tiers)
    source = f"AWS Price List API, {product.service}, {REGION}, SKU {sku}"
    return replace(known, usd=usd, source=source, date=date[:10], how="listed")


def _first_tiers(offer: Mapping[str, Any], units: list[str]) -> Iterator[tuple[float, str, str]]:
    """Yield the price, SKU and date of each term's first on-demand tier that is not free."""
    for term in offer.get("terms", {}).get("OnDemand", {}).values():
        tiers = sorted(term["priceDimensions"].values(), key=lambda tier: float(tier["beginRange"]))
        paid = [float(tier["pricePerUnit"].get("USD", 0)) for tier in tiers if tier["unit"] in units]
        for usd in [usd for usd in paid if usd > 0][:1]:
            yield usd, offer["product"]["sku"], term["effectiveDate"]
