"""Who headrace is towards an S3 origin: endpoint, region and keys from the host's own AWS chain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from headrace.base import limits
from headrace.base.errors import Denied, Invalid, Unavailable
from headrace.origin.urls import OriginUrl, redacted

T = TypeVar("T")
REGION = "us-east-1"
"""What S3 itself means when no region is given."""


class Keys(NamedTuple):
    """Keys as they are now; named as botocore's signer reads them."""

    access_key: str
    secret_key: str
    token: str | None = None


class Account(NamedTuple):
    """What the URL and the host's configuration say together."""

    endpoint: str
    """`https://host[:port]` without a slash at its end; "" for AWS's own."""
    region: str
    keys: Any
    """botocore credentials (perhaps refreshable), Keys, or None for anonymous."""
    bundle: str
    """Path of the certificate authorities to trust; "" for the system's."""


def look_up(url: OriginUrl) -> Account:
    """Ask URL, environment, profile and instance role, in AWS's own order. Blocks (disk, perhaps network).

    Raises Invalid (no such profile), Denied (no credentials).
    """
    import botocore.session
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.exceptions import BotoCoreError, ProfileNotFound

    session = botocore.session.Session(profile=url.options.get("profile"))
    try:
        scoped = session.get_scoped_config()
    except ProfileNotFound as error:
        raise Invalid(f"{redacted(url.text)}: {error}") from error
    endpoint = (
        url.options.get("endpoint")
        or ConfiguredEndpointProvider(full_config=session.full_config, scoped_config=scoped, client_name="s3").provide()
    )
    keys: Any = None
    if url.access_key:
        keys = Keys(url.access_key, url.secret_key)
    elif not url.flag("anonymous"):
        try:
            keys = session.get_credentials()
        except BotoCoreError as error:
            raise Denied(f"{redacted(url.text)}: the AWS credential chain failed: {error}") from error
        if keys is None:
            raise Denied(
                f"{redacted(url.text)}: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "a profile, or anonymous=true in the URL"
            )
    return Account(
        endpoint=(endpoint or "").rstrip("/"),
        region=url.options.get("region") or session.get_config_variable("region") or REGION,
        keys=keys,
        bundle=session.get_config_variable("ca_bundle") or os.environ.get("SSL_CERT_FILE", ""),
    )


class Chain:
    """The account behind one URL, looked up at first use and its keys kept fresh, never on the loop."""

    def __init__(self, url: OriginUrl) -> None:
        self._url = url
        self._account: Account | None = None
        self._lock = asyncio.Lock()
        self._frozen: Keys | None = None

    async def account(self) -> Account:
        """The account. Raises what `look_up` raises, and Unavailable when that takes too long."""
        if self._account is None:
            async with self._lock:
                if self._account is None:
                    self._account = await _in_thread(lambda: look_up(self._url), redacted(self._url.text))
        return self._account

    async def keys(self) -> Keys | None:
        """The keys valid now; None for anonymous.

        botocore refreshes in a thread. While the old keys are still good (an advisory refresh) one
        caller refreshes and all others go on with what there is.
        """
        account = self._account or await self.account()
        found = account.keys
        if found is None or isinstance(found, Keys):
            return found
        needed: Callable[..., bool] | None = getattr(found, "refresh_needed", None)
        if needed is None or not needed():
            return _keys(found.get_frozen_credentials())
        if self._lock.locked() and self._frozen is not None and not needed(0):
            return self._frozen
        async with self._lock:
            self._frozen = await _in_thread(lambda: _keys(found.get_frozen_credentials()), redacted(self._url.text))
            return self._frozen


def _keys(frozen: Any) -> Keys:
    """What botocore froze, as a value of our own."""
    return Keys(frozen.access_key, frozen.secret_key, frozen.token)


async def _in_thread(work: Callable[[], T], name: str) -> T:
    """Run blocking `work` beside the loop. Raises Unavailable at the deadline, Denied for what botocore raises."""
    from botocore.exceptions import BotoCoreError

    try:
        async with asyncio.timeout(limits.ORIGIN_CREDENTIAL_SECONDS_MAX):
            return await asyncio.to_thread(work)
    except TimeoutError as error:
        raise Unavailable(f"{name}: no credentials within {limits.ORIGIN_CREDENTIAL_SECONDS_MAX:g} s") from error
    except BotoCoreError as error:
        raise Denied(f"{name}: the AWS credential chain failed: {error}") from error
