"""Asking the AWS Price List API: answers of the form that it gives, page by page, and what goes wrong.

`price_list.json` was put together in the form of AWS's public offer files, with some of their products; it was not
recorded from the API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.refresh import REGION, Product, products, refresh
from lambdaml.errors import PricesUnreachable, SettingsError

TERM = "JRTCKXETXF"
ANSWERS = json.loads((Path(__file__).parent / "price_list.json").read_text())
"""`id of a price -> pages of products`, in the form of the API; what is not here is answered with no product."""


def client() -> Any:
    return boto3.client("pricing", region_name=REGION, aws_access_key_id="any", aws_secret_access_key="any")


def question(product: Product, token: str | None = None) -> dict[str, Any]:
    where = {product.region: REGION, **product.where}
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in where.items()]
    asked = {"ServiceCode": product.service, "Filters": filters, "FormatVersion": "aws_v1"}
    return asked | ({"NextToken": token} if token else {})


@pytest.fixture
def stub() -> Iterator[Stubber]:
    with Stubber(client()) as stubber:
        yield stubber


def answer_all(stubber: Stubber, answers: dict[str, list[list[Any]]]) -> None:
    asked = set()
    for product in products():
        key = (product.service, str(product.where))
        if key in asked:
            continue
        asked.add(key)
        pages = answers.get(product.id, [[]])
        for number, page in enumerate(pages):
            token = f"page-{number}" if number else None
            more = {"NextToken": f"page-{number + 1}"} if number + 1 < len(pages) else {}
            texts = [json.dumps(offer) for offer in page]
            stubber.add_response(
                "get_products", {"FormatVersion": "aws_v1", "PriceList": texts, **more}, question(product, token)
            )


def test_every_product_is_a_price_of_the_book_and_has_a_unit_there() -> None:
    book = PriceBook.load()
    assert len({product.id for product in products()}) == len(products())
    assert {product.id for product in products()} <= set(book)


def test_the_users_file_holds_what_aws_told_and_its_own(stub: Stubber, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "prices.toml"
    file.parent.mkdir()
    file.write_text('[[price]]\nid = "spot/instance"\nusd = 0.02\nunit = "hour"\n')
    answer_all(stub, ANSWERS)
    done = refresh(file, PriceBook.load(file), stub.client)
    stub.assert_no_pending_responses()
    packaged, book = PriceBook.load(), PriceBook.load(file)
    assert set(done.prices) == {*ANSWERS, "s3-standard/list"}
    told = book["lambda-arm/duration"]
    assert (told.usd, told.how, told.date) == (0.0000133334, "listed", "2026-07-01")
    assert told.source == "AWS Price List API, AWSLambda, us-east-1, SKU 2FQ3YNGB6Q5RHBPS"
    assert told.step_s == packaged["lambda-arm/duration"].step_s
    assert book["spot/instance"].usd == 0.02
    assert book["redis/ecpu"] == packaged["redis/ecpu"]


def test_what_the_user_wrote_stays_as_it_was_written(stub: Stubber, tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    own = '# ours\n\n[[price]]  # by contract\nid = "spot/instance"\nusd = 2e-2 # until May\nunit = "hour"\n\n'
    listed = (
        '[[price]]\nid = "s3-standard/get"  # asked of AWS\nusd = 9.0\nunit = "request"\nsource = "me"\n\n# the end\n'
    )
    file.write_text(own + listed)
    answer_all(stub, ANSWERS)
    refresh(file, PriceBook.load(file), stub.client)
    text = file.read_text()
    assert text.startswith(own) and "# asked of AWS" in text and text.count("# the end") == 1
    told = PriceBook.load(file)["s3-standard/get"]
    assert (told.usd, told.how) == (4e-07, "listed") and told.source.startswith("AWS Price List API")
    assert text.count('id = "s3-standard/get"') == 1
    answer_all(stub, ANSWERS)
    refresh(file, PriceBook.load(file), stub.client)
    assert file.read_text() == text, "asking again changes nothing"


def test_the_first_tier_that_is_not_free_counts_and_list_is_priced_as_put(stub: Stubber, tmp_path: Path) -> None:
    answer_all(stub, ANSWERS)
    done = refresh(tmp_path / "prices.toml", PriceBook.load(), stub.client)
    assert done.prices["s3-standard/storage"].usd == 0.023
    assert done.prices["transfer/internet"].usd == 0.09
    assert done.prices["s3-standard/list"].usd == done.prices["s3-standard/put"].usd == 5e-6
    assert done.prices["ec2-m7g.large/instance"].usd == 0.0821
    assert done.changed == {"ec2-m7g.large/instance": (0.0816, 0.0821)}


def test_what_the_answer_does_not_settle_is_kept_with_the_reason(stub: Stubber, tmp_path: Path) -> None:
    two = json.loads(json.dumps(ANSWERS["s3-standard/get"]))
    other = json.loads(json.dumps(two[0][0]))
    (dimension,) = next(iter(other["terms"]["OnDemand"].values()))["priceDimensions"].values()
    dimension["pricePerUnit"]["USD"] = "0.0000009000"
    two[0].append(other)
    stranger = json.loads(json.dumps(ANSWERS["s3-standard/put"]))
    stranger[0][0]["product"]["attributes"]["usagetype"] = "EU-Requests-Tier1"
    answer_all(stub, {**ANSWERS, "s3-standard/get": two, "s3-standard/put": stranger})
    done = refresh(tmp_path / "prices.toml", PriceBook.load(), stub.client)
    assert done.failed["s3-standard/get"] == "its attributes fit products with different prices: 4e-07, 9e-07"
    assert done.failed["s3-standard/put"].startswith("no product of AmazonS3 has its attributes")
    assert not {"s3-standard/get", "s3-standard/put"} & done.prices.keys()
    assert {"redis/ecpu", "spot/instance", "fmi-s3/get"} <= set(done.untouched)


def test_nothing_is_written_when_aws_tells_nothing_or_refuses(stub: Stubber, tmp_path: Path) -> None:
    answer_all(stub, {})
    assert not refresh(tmp_path / "prices.toml", PriceBook.load(), stub.client).prices
    stub.add_client_error("get_products", "AccessDeniedException", "not authorized to perform: pricing:GetProducts")
    with pytest.raises(PricesUnreachable, match="AWS refused to tell prices: AccessDeniedException: not authorized"):
        refresh(tmp_path / "prices.toml", PriceBook.load(), stub.client)
    assert not list(tmp_path.iterdir())


def test_without_credentials_or_network_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PricesUnreachable, match="cannot ask AWS for prices: Unable to locate credentials") as caught:
        refresh(tmp_path / "prices.toml", PriceBook.load())
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(PricesUnreachable, match="Could not connect to the endpoint"):
        refresh(tmp_path / "prices.toml", PriceBook.load())


def test_a_damaged_file_of_the_user_is_not_overwritten(stub: Stubber, tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("not a price book")
    answer_all(stub, ANSWERS)
    with pytest.raises(SettingsError, match="prices.toml is not TOML"):
        refresh(file, PriceBook.load(), stub.client)
    assert file.read_text() == "not a price book"
