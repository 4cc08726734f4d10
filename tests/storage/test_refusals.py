"""What a store cannot do, or refuses: done another way, or said in words that help; and no secret is ever repeated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from s3server import S3Server

from lambdaml.storage import AccessDenied, BadStoreURL, StoreError, StoreUnavailable, open_store
from lambdaml.storage.answers import store_error
from lambdaml.storage.url import masked

CLIENTS = ("obstore", "boto3")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "answer", [(501, "NotImplemented"), (400, "MalformedXML"), (405, "MethodNotAllowed"), (405, ""), (404, "NotFound")]
)
def test_where_bulk_deletes_are_refused_objects_are_deleted_one_by_one(client: str, answer: tuple[int, str]) -> None:
    with S3Server(refuses_bulk_deletes=answer) as server:
        store = open_store(f"{server.url}&client={client}")
        for n in range(30):
            store.put(f"k/{n}", b"")
        store.put("stays", b"")
        store.delete([f"k/{n}" for n in range(35)])
        assert set(server.objects) == {"run/stays"}
        store.delete(["stays", "never there"])
        assert not server.objects
        assert server.requests["DELETE"] == 37
        assert server.requests["POST"] == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_a_bulk_delete_that_is_denied_or_fails_for_a_while_is_not_taken_for_one_that_is_not_there(client: str) -> None:
    with S3Server(refuses_bulk_deletes=(403, "AccessDenied")) as server:
        with pytest.raises(AccessDenied):
            open_store(f"{server.url}&client={client}").delete(["k"])
        server.refuses_bulk_deletes = None
        server.fault("POST", "503", "500")
        store = open_store(f"{server.url}&client={client}")
        store.put("k", b"")
        store.delete(["k"])
        assert not server.objects and server.requests["DELETE"] == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_what_the_store_cannot_do_is_asked_once(client: str) -> None:
    with S3Server(denies=(501, "NotImplemented")) as server:
        with pytest.raises(StoreError, match=r"the store cannot do this \(501 NotImplemented\)") as caught:
            open_store(f"{server.url}&client={client}").create("k", b"")
        assert not isinstance(caught.value, StoreUnavailable) and server.requests.total() == 1


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "ExpiredToken", "session token has expired; get new credentials .*resume"),
        (403, "RequestTimeTooSkewed", "clock and the store's differ by more than 15 minutes; set this machine's clock"),
        (403, "InvalidAccessKeyId", "does not know the access key .*disabled.*set AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "secret key is not that of the access key; set AWS_ACCESS_KEY_ID"),
        (403, "InvalidToken", "unset AWS_SESSION_TOKEN"),
        (403, "AllAccessDisabled", "account is disabled"),
        (400, "AuthorizationHeaderMalformed", "set AWS_REGION or"),
        (403, "AccessDenied", "need read, write, delete and list rights"),
    ],
)
def test_a_refusal_says_what_to_do(client: str, status: int, code: str, words: str) -> None:
    with S3Server(denies=(status, code)) as server:
        store = open_store(f"{server.url}&client={client}")
        for call in (lambda: store.get("k"), lambda: store.create("k", b""), lambda: list(store.list())):
            with pytest.raises(AccessDenied, match=words) as caught:
                call()
            assert code in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(AccessDenied, match="denied|expired"):  # no code in an answer to a HEAD
            store.head("k")
        assert server.requests["GET"] == 2 and server.requests["PUT"] == 1  # none is repeated


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refusal_names_the_right_that_is_missing(client: str) -> None:
    with S3Server(denies=(403, "AccessDenied")) as server:
        store = open_store(f"{server.url}&client={client}")
        for right, call in {
            "s3:GetObject": lambda: store.get("k"),
            "s3:PutObject": lambda: store.create("k", b""),
            "s3:ListBucket": lambda: list(store.list()),
            "s3:DeleteObject": lambda: store.delete(["k"]),
        }.items():
            with pytest.raises(AccessDenied, match=f": {right} is not allowed; "):
                call()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_bucket_in_another_region_is_not_followed_there_but_named(client: str) -> None:
    with S3Server(denies=(301, "PermanentRedirect")) as server:
        store = open_store(f"{server.url}&client={client}")
        for call in (lambda: store.get("k"), lambda: store.create("k", b""), lambda: list(store.list())):
            with pytest.raises(AccessDenied, match="another region, eu-north-1 .*set AWS_REGION=eu-north-1 or"):
                call()
    wrong = store_error("get s3://bucket/k", 400, "AuthorizationHeaderMalformed", "eu-west-1")
    assert "another region, eu-west-1" in str(wrong)


def test_azures_refusals_say_what_to_do() -> None:
    assert "AZURE_STORAGE_ACCOUNT_KEY" in str(store_error("get az://c/k", 403, "AuthenticationFailed"))
    assert "disabled" in str(store_error("get az://c/k", 403, "AccountIsDisabled"))
    assert "no such bucket" in str(store_error("get az://c/k", 404, "ContainerNotFound"))


SECRETS = [
    "s3://AKIAKEY:hunter2@bucket/run",
    "s3://AKIAKEY:hun/ter2@bucket/run",
    "s3://hunter2@bucket/run",
    "s3://AKIAKEY:hunter2/run",
    "gs://user:hunter2@bucket/run",
    "az://account:hunter2@container/run",
    "moto://user:hunter2@bucket/run",
    "s3://bucket/run?secret=hunter2",
    "s3://bucket/run?aws_secret_access_key=hunter2&x=1",
    "s3://bucket/run?secret=hunter2&secret=hunter2",
    "s3://bucket/run?hunter2",
    "az://container/run?sv=2024&sig=hunter2",
    "s3://bucket/run?endpoint=https://user:hunter2@host",
    "s3://bucket/run?endpoint=http://hunter2@host:9000",
    "s3://bucket/run?endpoint=user:hunter2@host",
    "s3://bucket/run?endpoint=https://host/%3Fsig%3Dhunter2",
    "s3://bucket/run?endpoint=http://user:hunter2@host:port",
    "az://container/run?endpoint=https://host/account%3Fsig=hunter2",
    "gs://bucket/run?endpoint=https://user:hunter2@host",
    "s3://bucket/run?endpoint=http://127.0.0.1:1&keys=hunter2",
    "https://user:hunter2@host/bucket",
    "redis://user:hunter2@host/0",
    "ray://name?address=ray://user:hunter2@host:1",
]


@pytest.mark.parametrize("url", SECRETS)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadStoreURL) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value) and "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT"]
)
def test_a_secret_in_the_environments_endpoint_is_refused_and_not_repeated(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "https://user:hunter2@host")
    scheme = {"AWS": "s3", "GOO": "gs", "AZU": "az"}[name[:3]]
    with pytest.raises(BadStoreURL, match="endpoint must not contain credentials") as caught:
        open_store(f"{scheme}://bucket/run")
    assert "hunter2" not in str(caught.value)


def test_the_command_line_repeats_no_secret_either(tmp_path: Path) -> None:
    for url in (SECRETS[0], SECRETS[7], SECRETS[12]):
        for command in (["status", url], ["train", "job.py:Job", "--store", url], ["doctor", url]):
            program = [sys.executable, "-m", "lambdaml.cli", *command]
            said = subprocess.run(program, check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path)
            assert said.returncode == 2 and "hunter2" not in said.stdout + said.stderr, (command, said)
        assert not list(tmp_path.iterdir())


def test_texts_of_libraries_are_masked() -> None:
    text = "error for https://user:hunter2@host/c?sv=1&sig=hunter2 (tried)"
    assert masked(text) == "error for https://***@host/c?*** (tried)"


def test_dropping_a_store_of_given_objects_leaves_the_store_of_its_name_alone() -> None:
    from lambdaml.storage import MemoryStore

    named = open_store("memory://samekey")
    named.create("k", b"mine")
    given = MemoryStore.holding({"x": (b"1", 0.0)}, "samekey")
    assert given.get("k") is None and given.get("x") == b"1"
    given.drop()
    assert given.get("x") is None
    again = open_store("memory://samekey")
    assert again.get("k") == b"mine"
    MemoryStore("samekey").drop()
    assert open_store("memory://samekey").get("k") is None
