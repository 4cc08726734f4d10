"""Store URLs: `scheme://location?name=value&...`, or a plain path."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lambdaml.storage.errors import BadStoreURL

LARGEST_OBJECTS = {"s3": 5 * 2**30, "moto": 5 * 2**30, "az": 5000 * 2**20, "gs": 5 * 2**40}
"""The bytes that an object may have which is put by a single request, by scheme. Sources: Amazon S3's limits of PUT Object,
Azure's of Put Blob, Google Cloud Storage's quotas."""


@dataclass(frozen=True, slots=True)
class StoreURL:
    """A store URL in its parts. `str()` joins them again.

    Attributes:
        scheme: The scheme, such as `s3`; a plain path has the scheme `""`.
        location: The text between the scheme and the parameters.
        params: The parameters, by name.
    """

    scheme: str
    location: str
    params: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> StoreURL:
        """Parse a URL. Raises BadStoreURL where a parameter has no value or is given twice."""
        head, _, query = text.partition("?")
        scheme, sep, location = head.partition("://")
        if not sep:
            scheme, location = "", head
        if not location and scheme != "memory":
            raise BadStoreURL(
                f"{masked(text)!r} names no place: write file:///path, ./path, s3://bucket/prefix, ray://name or memory://name"
            )
        try:
            pairs = urllib.parse.parse_qsl(query, strict_parsing=True) if query else []
        except ValueError:
            raise BadStoreURL(f"cannot read the parameters of {masked(text)!r}: write ?name=value&name=value") from None
        params = dict(pairs)
        if len(params) < len(pairs):
            raise BadStoreURL(f"a parameter stands twice in {masked(text)!r}")
        return cls(scheme, location, params)

    @property
    def largest_object_bytes(self) -> int | None:
        """The most bytes that one request can put as an object; None if no limit is known."""
        return LARGEST_OBJECTS.get(self.scheme)

    def adding(self, **params: str | None) -> StoreURL:
        """Return the URL with these parameters as well, and without those that are None."""
        merged = {**self.params, **params}
        return StoreURL(
            self.scheme, self.location, {name: value for name, value in merged.items() if value is not None}
        )

    def taking(self, known: Collection[str]) -> StoreURL:
        """Return the URL, if it has only these parameters. Otherwise raise BadStoreURL naming the nearest known one."""
        for name in self.params:
            if name not in known:
                raise BadStoreURL(
                    f"{self.scheme or 'file'} stores take no parameter {name!r}{nearest_known(name, known)}"
                )
        return self

    def __str__(self) -> str:
        head = f"{self.scheme}://{self.location}" if self.scheme else self.location
        return f"{head}?{urllib.parse.urlencode(self.params, safe=':/,')}" if self.params else head


def masked(text: str) -> str:
    """Return a text with URLs in it for messages, without passwords and without parameters."""
    return re.sub(r"\?\S*", "?***", re.sub(r"://\S*@", "://***@", text))


def nearest_known(word: str, known: Collection[str]) -> str:
    """Return the end of a sentence that refuses `word`: the nearest known words, or all of them."""
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known are {', '.join(sorted(known)) or 'none'}"


def parse_number(text: str, what: str) -> float:
    """Parse a number out of a URL. Raises BadStoreURL, which names `what` it should have been."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise BadStoreURL(f"{what} must be a number that is not negative, not {text!r}")
    return value


def as_typed(url: str) -> str:
    """Return a run's URL as one would type it here, quoted for the shell. Paths below the working folder become
    relative.
    """
    path = urllib.parse.unquote(url.removeprefix("file://"))
    if url.startswith("file://") and "?" not in url + path:  # in a path, "?" would begin parameters
        relative = os.path.relpath(path)
        url = path if relative.startswith("..") else relative
        if url.startswith(("-", "~")):
            url = f"./{url}"
    return shlex.quote(url)
