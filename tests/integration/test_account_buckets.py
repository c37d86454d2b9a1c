"""Who makes headrace look into an account."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from object_world import Bound, World


class Curious(Bound):
    """Bindings that note what is looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.sought: list[str] = []

    async def discover(self, bucket: str) -> bool:
        """Nothing is found."""
        self.sought.append(bucket)
        return False


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.bound = world.context.bindings = Curious()
    yield world
    world.close()


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/random-1/k"), ("GET", "/random-1"), ("HEAD", "/random-1"), ("PUT", "/random-1/k"), ("POST", "/random-1"),
     ("POST", "/random-1?delete"), ("DELETE", "/random-1"), ("GET", "/random-1?policy"), ("OPTIONS", "/random-1/k")],
)  # fmt: skip
async def test_strangers_cause_no_call_to_an_account(world: World, method: str, target: str) -> None:
    answer = await world.call(method, target, {"content-type": "multipart/form-data"}, access_key="")
    assert answer.status >= 400
    assert world.bound.sought == []


async def test_neither_do_copies_of_strangers(world: World) -> None:
    assert (await world.call("PUT", "/public")).status == 200
    assert (await world.call("PUT", "/public?acl", {"x-amz-acl": "public-read-write"})).status == 200
    copy = {"x-amz-copy-source": "/random-2/k"}
    assert (await world.call("PUT", "/public/k", copy, access_key="")).status >= 400
    assert world.bound.sought == []
    assert (await world.call("PUT", "/public/k", copy)).code == "NoSuchBucket"
    assert "random-2" in world.bound.sought
