"""Who headrace is towards S3: URL before environment before profile, and keys refreshed beside the loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from headrace.base.errors import Denied, Invalid
from headrace.origin.credentials import Account, Chain, Keys
from headrace.origin.urls import parse


@pytest.fixture(autouse=True)
def bare_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host without AWS configuration; returns the path of its configuration file."""
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
        "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "config"


async def test_without_any_credentials_it_says_where_to_put_them() -> None:
    with pytest.raises(Denied, match="AWS_ACCESS_KEY_ID"):
        await Chain(parse("s3://bucket")).account()


async def test_anonymous_asks_nobody() -> None:
    chain = Chain(parse("s3://bucket?anonymous=true"))
    assert await chain.keys() is None
    assert (await chain.account()).region == "us-east-1"


async def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "K")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "T")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1")
    chain = Chain(parse("s3://bucket"))
    assert await chain.keys() == Keys("K", "S", "T")
    account = await chain.account()
    assert (account.region, account.endpoint) == ("eu-central-1", "http://general:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://special:1/")
    assert (await Chain(parse("s3://bucket")).account()).endpoint == "http://special:1"


async def test_the_url_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "K")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1")
    chain = Chain(parse("s3://mine:own@bucket?endpoint=http://here:2&region=r"))
    assert await chain.keys() == Keys("mine", "own", None)
    account = await chain.account()
    assert (account.endpoint, account.region) == ("http://here:2", "r")


async def test_a_profile(bare_host: Path) -> None:
    bare_host.write_text(  # noqa: ASYNC240 - once, before anything waits
        "[profile work]\naws_access_key_id=P\naws_secret_access_key=Q\nregion=ap-south-1\nendpoint_url=http://work:3\n"
    )
    chain = Chain(parse("s3://bucket?profile=work"))
    assert await chain.keys() == Keys("P", "Q", None)
    account = await chain.account()
    assert (account.endpoint, account.region) == ("http://work:3", "ap-south-1")
    with pytest.raises(Invalid, match="nowhere"):
        await Chain(parse("s3://bucket?profile=nowhere")).account()


class Refreshable:
    """Credentials as botocore's: old ones that are due, and a refresh that takes until it is let go."""

    def __init__(self) -> None:
        self.token = "old"
        self.due = False
        self.mandatory = False
        self.go = threading.Event()
        self.begun = threading.Event()
        self.refreshes: list[str] = []

    def refresh_needed(self, seconds: int | None = None) -> bool:
        return self.mandatory if seconds == 0 else self.due

    def get_frozen_credentials(self) -> Keys:
        if self.due:
            self.refreshes.append(threading.current_thread().name)
            self.begun.set()
            assert self.go.wait(20)
            self.token, self.due, self.mandatory = "new", False, False
        return Keys("K", "S", self.token)


async def test_one_caller_refreshes_in_a_thread_and_others_go_on_with_what_is_good() -> None:
    chain = Chain(parse("s3://bucket"))
    source: Any = Refreshable()
    chain._account = Account("", "r", source, "")
    source.due = source.mandatory = True
    source.go.set()
    assert await chain.keys() == Keys("K", "S", "new")
    source.go.clear()
    source.begun.clear()
    source.due = True
    refresher = asyncio.create_task(chain.keys())
    await asyncio.to_thread(source.begun.wait, 20)
    assert await asyncio.wait_for(chain.keys(), 10) == Keys("K", "S", "new")  # not blocked
    source.token = "newer"
    source.go.set()
    await refresher
    assert len(source.refreshes) == 2
    assert threading.current_thread().name not in source.refreshes
