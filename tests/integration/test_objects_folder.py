"""Reading a folder's files through the gateway while others change them: one version's bytes, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_world import World

from headrace.base.errors import Unavailable
from headrace.gateway import objects_read
from headrace.gateway.files import OpenFiles
from headrace.gateway.messages import Request
from headrace.origin.folder import Folder


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world with the folder `shared` bound."""
    made = World(tmp_path)
    (tmp_path / "shared").mkdir()
    made.bind("shared", Folder(tmp_path / "shared"))
    yield made
    made.close()


@pytest.mark.parametrize("in_place", [True, False])
async def test_a_file_changed_after_the_look_up_is_looked_up_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    path = tmp_path / "shared" / "k"
    path.write_bytes(b"old bytes")
    os.utime(path, (1, 1))
    hold = OpenFiles.hold
    changed = False

    def change_then_hold(*arguments: Any, **named: Any) -> Any:
        nonlocal changed
        if not changed:
            changed = True
            if not in_place:
                path.unlink()
            path.write_bytes(b"the new bytes")
        return hold(*arguments, **named)

    monkeypatch.setattr(OpenFiles, "hold", change_then_hold)
    answer = await world.call("GET", "/shared/k")
    assert changed
    assert answer.body == b"the new bytes"
    assert answer.headers["etag"] == (await world.call("HEAD", "/shared/k")).headers["etag"]
    again = await world.call("GET", "/shared/k", {"range": "bytes=4-6"})
    assert (again.status, again.body) == (206, b"new")


async def test_a_file_changed_while_it_is_sent_cuts_the_answer_off(world: World, tmp_path: Path) -> None:
    path = tmp_path / "shared" / "k"
    path.write_bytes(b"a" * 6_000_000)

    request = Request("GET", b"/shared/k", b"", [], "shared", "k")
    response = await objects_read.get_object(world.context, request, {})
    body = response.body
    assert not isinstance(body, bytes)
    await anext(body)
    with path.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"b")
    os.utime(path, (1, 1))
    with pytest.raises(Unavailable):
        await anext(body)
