"""The S3 protocol where it matters: lost answers, real races, errors and credentials, with both clients."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from s3server import Fault, S3Server

from lambdaml.storage import (
    AccessDenied,
    BadStoreURL,
    Metered,
    Retrying,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    StoreUnfit,
    Throttled,
    check,
    examine,
    open_store,
)
from lambdaml.storage.backend import Backend
from lambdaml.storage.boto import BotoStore
from lambdaml.storage.cloud import CloudStore
from lambdaml.storage.place import S3Place
from lambdaml.storage.url import StoreURL

CLIENTS = ("obstore", "boto3")


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


@pytest.fixture(params=CLIENTS)
def backend(request: pytest.FixtureRequest, server: S3Server) -> Backend:
    fault = request.node.callspec.params.get("fault", "")
    return make(request.param, server.url, 0.25 if "hang" in fault else 20)


def make(client: str, url: str, timeout_s: float = 20) -> Backend:
    place = S3Place.parse(StoreURL.parse(url))
    return BotoStore(place, timeout_s) if client == "boto3" else CloudStore.s3(place, timeout_s)


def retrying(backend: Backend) -> Retrying:
    return Retrying(Metered(backend), sleep=lambda seconds: None)


@pytest.mark.parametrize("fault", ["applied-cut", "applied-500", "applied-hang", "412", "409"])
def test_a_create_whose_answer_was_lost_is_known_to_be_ours(backend: Backend, server: S3Server, fault: Fault) -> None:
    if fault == "412":
        server.objects["run/log/0"] = (b"mine", time.time())
    server.fault("PUT", fault)
    store = retrying(backend)
    assert store.create("log/0", b"mine") is None
    assert server.objects["run/log/0"][0] == b"mine"
    reading = store.meter.snapshot()
    assert reading.requests.get("get", 0) == (0 if fault == "409" else 1)
    assert server.requests["PUT"] == (2 if fault == "409" else 1)


@pytest.mark.parametrize("fault", ["cut", "500", "503", "429", "409", "hang"])
def test_a_create_that_was_refused_for_a_while_happens_once(backend: Backend, server: S3Server, fault: Fault) -> None:
    server.fault("PUT", fault, fault)
    store = retrying(backend)
    assert store.create("log/0", b"mine") is None
    assert server.objects["run/log/0"][0] == b"mine"
    assert server.requests["PUT"] == 3


@pytest.mark.parametrize("fault", ["412", "409", "cut", "500", "hang"])
def test_a_create_that_was_lost_to_another_returns_the_others_bytes(
    backend: Backend, server: S3Server, fault: Fault
) -> None:
    server.objects["run/log/0"] = (b"theirs", time.time())
    server.fault("PUT", fault)
    assert bytes(retrying(backend).create("log/0", b"mine") or b"") == b"theirs"
    assert server.objects["run/log/0"][0] == b"theirs"


def test_no_client_repeats_a_request_by_itself(backend: Backend, server: S3Server) -> None:
    for method, call in {
        "PUT": lambda: backend.put("k", b""),
        "GET": lambda: backend.get("k"),
        "HEAD": lambda: backend.head("k"),
    }.items():
        for fault in ("cut", "500", "503"):
            before = server.requests[method]
            server.fault(method, fault)  # type: ignore[arg-type]
            with pytest.raises(StoreUnavailable):
                call()
            assert server.requests[method] == before + 1, (method, fault)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("503", Throttled),
        ("429", Throttled),
        ("500", StoreUnavailable),
        ("cut", StoreUnavailable),
        ("hang", StoreTimeout),
        ("403", AccessDenied),
    ],
)
def test_answers_become_our_errors(backend: Backend, server: S3Server, fault: Fault, error: type[StoreError]) -> None:
    for method, call in {
        "PUT": lambda: backend.try_create("k", b""),
        "GET": lambda: backend.get("k"),
        "POST": lambda: backend.delete(["k"]),
    }.items():
        server.fault(method, fault)
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
        assert "\n" not in str(caught.value) and "bucket/run/k" in str(caught.value)


def test_a_body_that_breaks_off_is_read_again(backend: Backend, server: S3Server) -> None:
    server.objects["run/k"] = (b"whole" * 1000, time.time())
    server.fault("GET", "short")
    with pytest.raises(StoreUnavailable):
        backend.get("k")
    server.fault("GET", "short", "short")
    assert bytes(retrying(backend).get("k") or b"") == b"whole" * 1000


def test_a_bucket_in_another_region_is_named_as_such(backend: Backend, server: S3Server) -> None:
    server.fault("GET", *["301"] * 5)
    with pytest.raises(AccessDenied, match="in another region.*AWS_REGION"):
        backend.get("k")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_missing_bucket_and_a_closed_port_are_told_apart(client: str, server: S3Server) -> None:
    backend = make(client, server.url.replace("//bucket", "//other"))
    calls = (lambda: backend.get("k"), lambda: backend.create("k", b""), lambda: list(backend.list()))
    for call in calls:
        with pytest.raises(AccessDenied, match="no such bucket"):
            call()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = make(client, f"s3://bucket/run?endpoint=http://127.0.0.1:{free.getsockname()[1]}&region=us-east-1")
        with pytest.raises(StoreUnavailable, match="connection failed"):
            closed.get("k")


def test_of_many_racers_on_both_clients_exactly_one_creates_each_key(server: S3Server) -> None:
    stores = [open_store(f"{server.url}&client={client}") for client in CLIENTS for _ in range(4)]
    wins: list[tuple[int, int]] = []
    odd: list[object] = []
    gate = threading.Barrier(len(stores))

    def race(me: int) -> None:
        for n in range(40):
            gate.wait(30)
            found = stores[me].create(f"log/{n}", b"%d %d" % (me, n))
            if found is None:
                wins.append((n, me))
            elif not bytes(found).endswith(b" %d" % n):
                odd.append(found)

    threads = [threading.Thread(target=race, args=(me,)) for me in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(n for n, _ in wins) == list(range(40)) and not odd
    assert all(server.objects[f"run/log/{n}"][0] == b"%d %d" % (me, n) for n, me in wins)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_store_that_ignores_create_only_is_refused(client: str) -> None:
    with S3Server(honours_create_only=False) as server:
        store = open_store(f"{server.url}&client={client}")
        with pytest.raises(StoreUnfit, match="overwrites on a create-only put"):
            check(store)
        assert server.objects == {}
        findings = {finding.name: finding.ok for finding in examine(store)}
        assert not findings["create-only"] and not findings["races"] and findings["lists"]
        assert server.objects == {}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_store_that_lists_in_no_order_is_refused_and_the_url_that_helps_is_said(client: str) -> None:
    with S3Server(sorts=False, page=2) as server:
        store = open_store(f"{server.url}&client={client}")
        with pytest.raises(StoreUnfit, match="does not list in the order of keys; add sorted=no to the URL"):
            check(store)
        assert server.objects == {}
        findings = {finding.name: finding for finding in examine(store)}
        assert not findings["lists"].ok and "objects may be left under probe/" in findings["clean-up"].reason
        server.objects.clear()
        sorting = open_store(f"{server.url}&client={client}&sorted=no")
        check(sorting)
        assert [finding for finding in examine(sorting) if not finding.ok] == []
        assert server.objects == {}
    with pytest.raises(BadStoreURL, match="sorted can only be 'no'"):
        open_store(f"{server.url}&sorted=yes")


def test_a_google_bucket_that_ignores_create_only_is_refused() -> None:
    with S3Server(honours_create_only=False) as server:
        with pytest.raises(StoreUnfit, match="overwrites on a create-only put"):
            check(open_store(f"gs://bucket/run?endpoint={server.endpoint}"))
        assert server.objects == {} and server.requests["PUT"] == 2


@pytest.mark.parametrize("client", CLIENTS)
def test_pages_are_fetched_as_needed_and_counted(client: str) -> None:
    with S3Server(page=1000) as server:
        for n in range(2500):
            server.objects[f"run/x/{n:05d}"] = (b"", 1.0)
        for key in ("run/xyz", "run/w", "other/x/1"):
            server.objects[key] = (b"", 1.0)
        store = open_store(f"{server.url}&client={client}")
        first = next(store.list("x/"))
        assert first.key == "x/00000" and store.meter.snapshot().requests == {"list": 1}
        assert len(list(store.list("x/"))) == 2500
        assert store.meter.snapshot().requests == {"list": 4} and server.requests["GET"] == 4
        assert [info.key for info in store.list("x", after="x/02498")] == ["x/02499", "xyz"]
        assert [info.key for info in store.list("x/009", after="x/00997")] == ["x/00998", "x/00999"]
        assert [info.key for info in store.list("xy")] == ["xyz"]
        for n in range(1500):
            server.objects[f"run/x-{n:05d}"] = (b"", 1.0)
        assert [info.key for info in store.list("x", after="x/")][:2] == ["x/00000", "x/00001"]
        assert len(list(store.list("", after="x//"))) == 2501
        for key in [key for key in server.objects if "x-" in key]:
            del server.objects[key]
        assert len(list(store.list())) == 2502


def test_more_than_a_page_on_moto(moto_url: str) -> None:
    head, _, query = moto_url.partition("?")
    store = open_store(f"{head}/pages?{query}")
    keys = [f"k/{n:04d}" for n in range(1005)]
    threads = [threading.Thread(target=lambda at=at: [store.put(key, b"") for key in keys[at::4]]) for at in range(4)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [info.key for info in store.list("k")] == keys
    assert store.meter.snapshot().requests["list"] == 2
    boto = open_store(f"{store.url}&client=boto3")
    assert [info.key for info in boto.list("k", after="k/0001")] == keys[2:]
    boto.delete(keys)
    assert list(store.list()) == []


def test_what_a_server_lists_in_no_order_is_sorted_here(server: S3Server) -> None:
    for n in range(25):
        server.objects[f"run/a/{n:02d}"] = (b"", 1.0)
    server.page = 10
    for client in CLIENTS:
        backend = make(client, f"{server.url}&sorted=no")
        assert "sorted=no" in backend.url
        assert [info.key for info in backend.list("a/1", after="a/11")] == [f"a/{n}" for n in range(12, 20)]
        assert len(list(backend.list())) == 25


@pytest.mark.parametrize("client", CLIENTS)
def test_without_credentials_it_fails_soon_and_says_what_to_set(client: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(AccessDenied, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(f"s3://bucket/run?client={client}").get("k")
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("client", CLIENTS)
def test_credentials_never_show(client: str, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASHOWSNOT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "tokentoken")
    backend = make(client, server.url, 0.25)
    shown = [backend.url, repr(S3Place.parse(StoreURL.parse(server.url)).keys())]
    for fault in ("403", "500", "503", "cut", "hang"):
        server.fault("PUT", fault)  # type: ignore[arg-type]
        with pytest.raises(StoreError) as caught:
            backend.put("k", b"")
        shown.append(str(caught.value))
    assert not [text for text in shown for secret in ("AKIA", "hunter2", "tokentoken") if secret in text]


def test_endpoint_and_region_come_from_the_environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint + "/")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    store = open_store("s3://bucket/run/")
    store.put("k", b"x")
    assert server.objects["run/k"][0] == b"x"
    assert store.url == f"s3://bucket/run?endpoint={server.endpoint}&region=eu-west-1"


def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", program, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("client", CLIENTS)
def test_another_process_opens_it_by_url_alone(client: str, moto_url: str) -> None:
    program = (
        "import sys; from lambdaml.storage import open_store; print(open_store(sys.argv[1]).create('child', b'1'))"
    )
    head, _, query = moto_url.partition("?")
    store = open_store(f"{head}/by-url-{client}?{query}&client={client}")
    assert run(program, store.url).stdout == "None\n"
    assert store.get("child") == b"1"


def test_a_fork_is_told_instead_of_hanging(server: S3Server) -> None:
    program = """
import os, sys
from lambdaml.storage import open_store, StoreError
open_store(sys.argv[1]).get("k")
if os.fork() == 0:
    try:
        open_store(sys.argv[1]).get("k")
    except StoreError as error:
        print(error, flush=True)
    print(open_store(sys.argv[1] + "&client=boto3").get("k"), flush=True)
    os._exit(0)
os.wait()
"""
    said = run(program, server.url).stdout
    assert "start workers with 'spawn', or add ?client=boto3" in said and said.endswith("None\n")


def test_the_moto_server_dies_with_its_owner() -> None:
    program = """
import os, sys
from lambdaml.storage import open_store
store = open_store("moto://bucket/run?client=boto3&latency=1ms")
store.create("k", b"")
print(store.url, store.ephemeral, flush=True)
sys.stdin.read()
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdin is not None and owner.stdout is not None
    url, ephemeral = owner.stdout.readline().split()
    assert ephemeral == "True" and "client=boto3" in url and "latency=1ms" in url
    port = int(url.partition("127.0.0.1:")[2].partition("&")[0])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    os.kill(owner.pid, 9)
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    pytest.fail("the server outlived its owner")


def test_without_moto_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"pip install 'lambdaml-runtime\[local\]'"):
        open_store("moto://bucket/run")
