"""A small S3 server for tests, on the standard library: conditional puts that are truly atomic, and broken on demand.

Google's store speaks the same XML, but for the header of a create, so that it will do for `gs://`, too.

moto checks and then acts, so it cannot show mutual exclusion; this server holds one lock per key. It can also apply a
request and then lose the answer, which is the case that every client library gets wrong by itself.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from xml.sax.saxutils import escape

Fault = Literal[
    "cut",
    "refuse",
    "500",
    "503",
    "429",
    "409",
    "412",
    "403",
    "hang",
    "short",
    "301",
    "applied-cut",
    "applied-500",
    "applied-hang",
]
"""What happens to one request. `short` cuts the body of an answer; `applied-*` does the work first and then loses the answer."""

PAGE = 1000


class S3Server:
    """`with S3Server() as server: open_store(server.url)`; one bucket named `bucket`, at 127.0.0.1, any credentials.

    With `sorts=False` it lists folder by folder. `headers` are those of the last request, by their names in lower case. Every request is answered with the status and
    code of `denies`, every bulk delete with those of `refuses_bulk_deletes`.
    """

    def __init__(
        self,
        *,
        honours_create_only: bool = True,
        sorts: bool = True,
        page: int = PAGE,
        refuses_bulk_deletes: tuple[int, str] | None = None,
        denies: tuple[int, str] | None = None,
    ) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.honours_create_only = honours_create_only
        self.sorts = sorts
        self.page = page
        self.refuses_bulk_deletes = refuses_bulk_deletes
        self.denies = denies
        self.requests: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self._counting = threading.Lock()
        self.locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.released = threading.Event()
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"s3://bucket/run?endpoint={self.endpoint}&region=us-east-1"

    def fault(self, method: str, *faults: Fault) -> None:
        """The next requests with this HTTP method meet these faults, in this order."""
        self._faults[method].extend(faults)

    def count(self, method: str, path: str, create_only: bool) -> None:
        """Count a request by HTTP method, and by kind as a store would be asked: `get`, `list`, `create` ..."""
        key = path.partition("?")[0].strip("/").partition("/")[2]
        kinds = {"GET": "get" if key else "list", "PUT": "create" if create_only else "put", "HEAD": "head"}
        with self._counting:
            self.requests[method] += 1
            self.kinds[kinds.get(method, "delete")] += 1

    def next_fault(self, method: str) -> Fault | None:
        try:
            return self._faults[method].popleft()
        except IndexError:
            return None

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(server: S3Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", headers.get("size", str(len(body))))
            self.end_headers()
            if body and self.command != "HEAD":
                with contextlib.suppress(ConnectionError):  # a client need not read what it is told of an error
                    self.wfile.write(body)

        def _error(self, status: int, code: str) -> None:
            given = "".join(  # as S3 does, which repeats the key and the token, and which clients must not
                f"<Given>{escape(self.headers[name])}</Given>"
                for name in ("Authorization", "X-Amz-Security-Token")
                if name in self.headers
            )
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message>{given}</Error>"
            headers = {"Content_Type": "application/xml"} | (
                {"x_amz_bucket_region": "eu-north-1"} if status == 301 else {}
            )
            self._answer(status, body.encode() if code else b"", **headers)

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.count(self.command, self.path, "If-None-Match" in self.headers)
            server.headers = {name.lower(): value for name, value in self.headers.items()}
            fault = server.next_fault(self.command)
            if fault is None:
                return self._act(body)
            if fault.startswith("applied-"):
                self._act(body, answer=False)
                fault = fault.removeprefix("applied-")  # type: ignore[assignment]
            codes = {"500": "InternalError", "503": "SlowDown", "429": "TooManyRequests", "403": "AccessDenied"}
            codes |= {"409": "ConditionalRequestConflict", "412": "PreconditionFailed", "301": "PermanentRedirect"}
            if fault in codes:
                return self._error(int(fault), codes[fault])
            if fault == "short":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.send_header("Last-Modified", email.utils.formatdate(0, usegmt=True))
                self.send_header("ETag", '"x"')
                self.end_headers()
                self.wfile.write(bytes(1000))
            if fault == "hang":
                server.released.wait(20)
            self.close_connection = True

        def _act(self, body: bytes, answer: bool = True) -> None:
            path, _, query = self.path.partition("?")
            bucket, _, key = urllib.parse.unquote(path.lstrip("/")).partition("/")
            options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
            if bucket != "bucket" and server.denies is None:
                return self._error(404, "NoSuchBucket")
            refusal = server.denies or (server.refuses_bulk_deletes if self.command == "POST" else None)
            if refusal is not None:
                return self._error(*refusal)
            if self.command == "PUT":
                status = self._put(key, body)
                if answer and status == 200:
                    self._answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
                elif answer:
                    self._error(status, "PreconditionFailed")
            elif self.command == "POST":
                gone = [node.text or "" for node in ET.fromstring(body).iter() if node.tag.endswith("Key")]
                for name in gone:
                    server.objects.pop(name, None)
                rows = "".join(f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in gone)
                self._answer(200, f"<DeleteResult>{rows}</DeleteResult>".encode(), Content_Type="application/xml")
            elif self.command == "DELETE":
                server.objects.pop(key, None)
                self._answer(204)
            elif key:
                self._get(key)
            else:
                self._list(options)

        def _put(self, key: str, body: bytes) -> int:
            with server.locks[key]:
                create_only = self.headers.get("If-None-Match") == "*"
                create_only = create_only or self.headers.get("x-goog-if-generation-match") == "0"
                if server.honours_create_only and create_only and key in server.objects:
                    return 412
                server.objects[key] = (body, time.time())
            return 200

        def _get(self, key: str) -> None:
            if key not in server.objects:
                return self._error(404, "NoSuchKey")
            data, modified = server.objects[key]
            headers = {"Last_Modified": email.utils.formatdate(modified, usegmt=True), "ETag": '"x"'}
            wanted = self.headers.get("Range")
            if wanted is None:
                if self.command == "HEAD":
                    headers["size"] = str(len(data))
                return self._answer(200, data, **headers)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(data)) + 1, len(data))
            if start >= len(data):
                return self._error(416, "InvalidRange")
            self._answer(206, data[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{len(data)}", **headers)

        def _list(self, options: dict[str, str]) -> None:
            prefix = options.get("prefix", "")
            after = options.get("continuation-token") or options.get("start-after", "")

            def place(key: str) -> list[str]:
                return [key] if server.sorts else key.split("/")

            keys = [key for key in list(server.objects) if key.startswith(prefix) and place(key) > place(after)]
            found = sorted(keys, key=place)
            page, more = found[: server.page], len(found) > server.page
            rows = []
            for key in page:
                data, modified = server.objects[key]
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(modified))
                name = urllib.parse.quote(key) if options.get("encoding-type") == "url" else escape(key)
                rows.append(
                    f"<Contents><Key>{name}</Key><LastModified>{stamp}</LastModified><ETag>x</ETag>"
                    f"<Size>{len(data)}</Size></Contents>"
                )
            token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
            encoding = "<EncodingType>url</EncodingType>" if "encoding-type" in options else ""
            body = (
                f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><Name>bucket</Name><Prefix/>{encoding}"
                f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{server.page}</MaxKeys>"
                f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(rows)}</ListBucketResult>"
            )
            self._answer(200, body.encode(), Content_Type="application/xml")

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve

    return Handler
