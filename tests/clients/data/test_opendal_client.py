"""OpenDAL's Python binding: a Rust client of its own, with UNSIGNED-PAYLOAD."""

from __future__ import annotations

from typing import Any

import opendal
import pytest
from client_steps import PART_BYTES, Client, ClientSteps

pytestmark = pytest.mark.clients


class OpenDal:
    """The adapter."""

    def __init__(self, operator: opendal.Operator) -> None:
        self.operator = operator

    def put(self, key: str, data: bytes) -> None:
        self.operator.write(key, data)

    def put_large(self, key: str, data: bytes) -> None:
        self.operator.write(key, data, chunk=PART_BYTES)

    def get(self, key: str) -> bytes:
        return bytes(self.operator.read(key))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        with self.operator.open(key, "rb") as file:
            file.seek(start)
            pieces = b""  # read() gives what the network has brought so far
            while len(pieces) < stop - start and (piece := bytes(file.read(stop - start - len(pieces)))):
                pieces += piece
            return pieces

    def list(self, prefix: str) -> list[str]:
        return [entry.path for entry in self.operator.scan(prefix) if not entry.path.endswith("/")]

    def delete(self, key: str) -> None:
        self.operator.delete(key)


class TestOpendal(ClientSteps):
    @pytest.fixture
    def client(self, place: Any) -> Client:
        style = {"enable_virtual_host_style": "true"} if place.virtual else {}
        return OpenDal(
            opendal.Operator(
                "s3",
                bucket=place.bucket,
                endpoint=place.endpoint,
                region="us-east-1",
                access_key_id=place.access_key,
                secret_access_key=place.secret_key,
                **style,
            )
        )
