"""Data go to the server that the store's URL names, signed with the keys that boto3 would take, by both clients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3server import S3Server

from lambdaml.storage import AccessDenied, BadStoreURL, StoreError, StoreUnavailable, open_store
from lambdaml.storage.boto import BotoStore
from lambdaml.storage.cloud import CloudStore
from lambdaml.storage.connect import connect_s3
from lambdaml.storage.place import S3Place
from lambdaml.storage.url import StoreURL

CLIENTS = ("obstore", "boto3")
SERVICES = "services = ours\n[services ours]\ns3 =\n  endpoint_url = {here}\n"
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
OBSTORES_OWN = {
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    "AWS_S3_EXPRESS": "true",
    "AWS_SKIP_SIGNATURE": "true",
    "AWS_UNSIGNED_PAYLOAD": "true",
    "AWS_BUCKET": "elsewhere",
    "AWS_BUCKET_NAME": "elsewhere",
    "AWS_CONDITIONAL_PUT": "disabled",
    "AWS_REQUEST_PAYER": "true",
    "AWS_ALLOW_HTTP": "false",
    "AWS_TIMEOUT": "1ms",
    "AWS_PROXY_URL": "{there}",
    "AWS_METADATA_ENDPOINT": "{there}",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "{there}",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/there",
}

ENDPOINTS: dict[str, tuple[str, dict[str, str], str]] = {
    "the URL over AWS_ENDPOINT_URL_S3": ("?endpoint={here}", {"AWS_ENDPOINT_URL_S3": "{there}"}, ""),
    "the URL over AWS_ENDPOINT_URL": ("?endpoint={here}", {"AWS_ENDPOINT_URL": "{there}"}, ""),
    "the URL over obstore's AWS_ENDPOINT": ("?endpoint={here}", {"AWS_ENDPOINT": "{there}"}, ""),
    "the URL over a profile": ("?endpoint={here}", {}, "[default]\nendpoint_url = {there}\n"),
    "the URL where endpoints are ignored": ("?endpoint={here}", {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""),
    "AWS_ENDPOINT_URL_S3 over AWS_ENDPOINT_URL": (
        "",
        {"AWS_ENDPOINT_URL_S3": "{here}", "AWS_ENDPOINT_URL": "{there}", "AWS_ENDPOINT": "{there}"},
        "",
    ),
    "AWS_ENDPOINT_URL over a profile": (
        "",
        {"AWS_ENDPOINT_URL": "{here}", "AWS_ENDPOINT": "{there}"},
        "[default]\nendpoint_url = {there}\n" + SERVICES.replace("{here}", "{there}"),
    ),
    "a profile's services over its endpoint_url": ("", {}, "[default]\nendpoint_url = {there}\n" + SERVICES),
    "a profile's endpoint_url": ("", {"AWS_ENDPOINT": "{there}"}, "[default]\nendpoint_url = {here}\n"),
    "the endpoint_url of AWS_PROFILE": (
        "",
        {"AWS_PROFILE": "mine", "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"},
        "[default]\nendpoint_url = {there}\n[profile mine]\nendpoint_url = {here}\n",
    ),
    "no proxy to this machine": ("?endpoint={here}", dict.fromkeys(PROXIES, "{there}"), ""),
    "nothing that only obstore reads": ("?endpoint={here}", OBSTORES_OWN, ""),
}

KEYS: dict[str, tuple[dict[str, str], str, tuple[str, str | None]]] = {
    "made up where nothing is set": ({}, "[default]\nregion = eu-west-1\n", ("moto", None)),
    "made up, without a stray token": ({"AWS_SESSION_TOKEN": "stray"}, "", ("moto", None)),
    "of the environment": ({"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s"}, "", ("AKENV", None)),
    "of the environment, with its token": (
        {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "token"},
        "",
        ("AKENV", "token"),
    ),
    "of the environment over AWS_PROFILE": (
        {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s", "AWS_PROFILE": "mine"},
        "[profile mine]\naws_access_key_id = AKMINE\naws_secret_access_key = s\n",
        ("AKENV", None),
    ),
    "of AWS_PROFILE": (
        {"AWS_PROFILE": "mine", "AWS_SESSION_TOKEN": "stray"},
        "[profile mine]\naws_access_key_id = AKMINE\naws_secret_access_key = s\n",
        ("AKMINE", None),
    ),
    "of AWS_PROFILE, with its token": (
        {"AWS_PROFILE": "mine"},
        "[profile mine]\naws_access_key_id = AKMINE\naws_secret_access_key = s\naws_session_token = its\n",
        ("AKMINE", "its"),
    ),
    "of the default profile": (
        {},
        "[default]\naws_access_key_id = AKDEFAULT\naws_secret_access_key = s\n",
        ("AKDEFAULT", None),
    ),
}


@pytest.fixture
def servers() -> Iterator[tuple[S3Server, S3Server]]:
    with S3Server() as here, S3Server() as there:
        yield here, there


def setting(
    monkeypatch: pytest.MonkeyPatch, folder: Path, servers: tuple[S3Server, S3Server], env: dict[str, str], config: str
) -> None:
    def filled(text: str) -> str:
        return text.replace("{here}", servers[0].endpoint).replace("{there}", servers[1].endpoint)

    for name, value in env.items():
        monkeypatch.setenv(name, filled(value))
    if config:
        (folder / "config").write_text(filled(config))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", ENDPOINTS)
def test_data_go_where_boto3_would_send_them_and_the_url_says_so(
    case: str, client: str, servers: tuple[S3Server, S3Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    query, env, config = ENDPOINTS[case]
    setting(monkeypatch, tmp_path, servers, env, config)
    here, there = servers
    sep = "&" if query else "?"
    store = open_store(f"s3://bucket/run{query.replace('{here}', here.endpoint)}{sep}client={client}")
    assert store.create("k", b"x") is None and store.create("k", b"y") == b"x"
    assert f"endpoint={here.endpoint}" in store.url
    assert set(here.objects) == {"run/k"} and not there.requests
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, there.endpoint)
    again = open_store(store.url)
    assert again.url == store.url and again.get("k") == b"x" and not there.requests
    again.delete(["k"])
    assert not here.objects and "authorization" in here.headers and not there.requests
    assert "x-amz-request-payer" not in here.headers


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", KEYS)
def test_a_server_on_this_machine_gets_the_keys_that_boto3_would_take_or_made_up_ones(
    case: str, client: str, servers: tuple[S3Server, S3Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env, config, (access, token) = KEYS[case]
    setting(monkeypatch, tmp_path, servers, env, config)
    open_store(f"s3://bucket/run?endpoint={servers[0].endpoint}&client={client}").put("k", b"x")
    assert f"Credential={access}/" in servers[0].headers["authorization"]
    assert servers[0].headers.get("x-amz-security-token") == token


@pytest.mark.parametrize(
    ("env", "config"),
    [
        ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_ENDPOINT_URL_S3": "{there}"}, ""),
        ({"AWS_ENDPOINT": "{there}"}, "[default]\nregion = eu-west-1\n"),
        ({"AWS_ENDPOINT_URL": "{there}"}, "[default]\nignore_configured_endpoint_urls = true\n"),
    ],
)
def test_without_an_endpoint_that_counts_both_clients_mean_aws(
    env: dict[str, str],
    config: str,
    servers: tuple[S3Server, S3Server],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    setting(monkeypatch, tmp_path, servers, env, config)
    place = S3Place.parse(StoreURL.parse("s3://bucket/run?region=eu-west-1"))
    assert place.endpoint is None and CloudStore.s3(place).url == "s3://bucket/run?region=eu-west-1"
    assert BotoStore(place)._connected().meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
    assert connect_s3(place, {}).config["endpoint_url_s3"] == "https://s3.eu-west-1.amazonaws.com"


def test_directory_buckets_and_china_have_addresses_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    express = connect_s3(S3Place("mine--use1-az4--x-s3", "", region="us-east-1"), {}).config
    assert express["endpoint_url_s3"] == "https://mine--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com"
    assert express["s3_express"] == express["virtual_hosted_style_request"] == "true"
    china = connect_s3(S3Place("mine", "", region="cn-north-1"), {}).config
    assert china["endpoint_url_s3"] == "https://s3.cn-north-1.amazonaws.com.cn"


def test_the_region_is_the_profiles_where_nothing_else_says_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, servers: tuple[S3Server, S3Server]
) -> None:
    setting(monkeypatch, tmp_path, servers, {}, "[default]\nregion = eu-west-3\n")
    assert open_store("s3://bucket/run").url == "s3://bucket/run?region=eu-west-3"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert open_store("s3://bucket/run").url == "s3://bucket/run?region=eu-west-2"


@pytest.mark.parametrize("client", CLIENTS)
def test_a_profile_that_does_not_exist_is_named_as_the_mistake(
    client: str, servers: tuple[S3Server, S3Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting(monkeypatch, tmp_path, servers, {"AWS_PROFILE": "none"}, "[default]\nregion = eu-west-1\n")
    with pytest.raises(AccessDenied, match="AWS_PROFILE names a profile that does not exist"):
        open_store(f"s3://bucket/run?endpoint={servers[0].endpoint}&region=us-east-1&client={client}").get("k")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_elsewhere_is_reached_through_the_proxy(
    client: str, servers: tuple[S3Server, S3Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", servers[1].endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    with pytest.raises((StoreError, StoreUnavailable)):
        open_store(f"s3://bucket/run?endpoint=http://store.invalid:9000&client={client}").get("k")
    assert servers[1].requests["GET"] == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_moto_needs_no_proxy_and_no_profile(
    client: str, servers: tuple[S3Server, S3Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*PROXIES, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, servers[1].endpoint)
    monkeypatch.setenv("AWS_PROFILE", "none")
    store = open_store(f"moto://bucket/run?client={client}")
    try:
        assert store.create("k", b"x") is None
        assert open_store(store.url).get("k") == b"x"
    finally:
        store.close()
    assert not servers[1].requests


def test_a_moto_server_that_does_not_start_is_one_line() -> None:
    program = """
import sys
from lambdaml.storage import StoreError, open_store
sys.executable = "/bin/false"
try:
    open_store("moto://bucket/run")
except StoreError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert ended.stdout.startswith("the moto server did not start") and ended.stderr == "" and ended.returncode == 0


def test_made_up_keys_are_for_this_machine_only() -> None:
    for query in (
        "keys=made-up",
        "keys=made-up&endpoint=https://s3.example.com",
        "keys=mine&endpoint=http://127.0.0.1:1",
    ):
        with pytest.raises(BadStoreURL, match="keys can only be 'made-up', and only with the endpoint of a server on"):
            open_store(f"s3://bucket/run?{query}")
