"""Stores in S3, or on a server that speaks its protocol: `s3://bucket/prefix`; `lambdaml.storage.place` reads the URL."""

from __future__ import annotations

from lambdaml.storage.backend import Backend
from lambdaml.storage.boto import BotoStore
from lambdaml.storage.cloud import CloudStore
from lambdaml.storage.errors import BadStoreURL
from lambdaml.storage.place import S3Place
from lambdaml.storage.url import StoreURL, nearest_known

CLIENTS = ("obstore", "boto3")


def open_backend(url: StoreURL) -> Backend:
    """Open `s3://bucket/prefix` through obstore, or through boto3 with `?client=boto3`."""
    client = url.params.get("client", "obstore")
    place = S3Place.parse(url)
    if client == "obstore":
        return CloudStore.s3(place)
    if client == "boto3":
        return BotoStore(place)
    raise BadStoreURL(f"client={client}: no such client{nearest_known(client, CLIENTS)}")
