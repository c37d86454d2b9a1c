"""What `headrace doctor` looks at in each origin: can it be reached and read, and is its clock like ours."""

from __future__ import annotations

import asyncio
import http.client
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from headrace.base import clock
from headrace.base.errors import HeadraceError
from headrace.base.limits import CLOCK_SKEW_SECONDS_MAX, DOCTOR_ORIGIN_SECONDS_MAX
from headrace.model.bindings import Binding
from headrace.origin.credentials import look_up
from headrace.origin.factory import Origins
from headrace.origin.urls import OriginUrl, parse, redacted
from headrace.serve.checks import FAIL, OK, WARN, Check
from headrace.serve.endpoints import same_endpoint

_SKEW_SECONDS_NOTED = 60.0


async def check_origins(bindings: list[Binding], own_endpoint: str) -> list[Check]:
    """Checks of every binding, all at once, each within its deadline."""
    results = await asyncio.gather(*(_check_binding(binding, own_endpoint) for binding in bindings))
    return [check for checks in results for check in checks]


async def _check_binding(binding: Binding, own_endpoint: str) -> list[Check]:
    name = f"origin {binding.bucket or 's3://'}"
    try:
        url = parse(binding.url)
        endpoint = await asyncio.to_thread(_endpoint_of, url)
        if endpoint and same_endpoint(endpoint, own_endpoint):
            advice = "Unset AWS_ENDPOINT_URL where the node is started, or name the endpoint in the origin's URL."
            return [Check(name, FAIL, f"{redacted(binding.url)} leads back to this node's own endpoint", advice)]
        checks = [] if url.account else [await _check_listing(name, binding)]
        if url.account:
            checks.append(Check(name, OK, "AWS credentials were found"))
        if endpoint:
            checks.append(await asyncio.to_thread(_check_skew, name, endpoint))
    except HeadraceError as problem:
        return [Check(name, FAIL, problem.message, "Mend the URL or the credentials and run this again.")]
    return checks


def _endpoint_of(url: OriginUrl) -> str:
    """The HTTP endpoint behind the origin; empty for folders and for kinds whose endpoint is not known here."""
    if url.scheme == "s3":
        account = look_up(url)
        return account.endpoint or f"https://s3.{account.region}.amazonaws.com"
    if url.scheme in ("http", "https"):
        return f"{url.scheme}://{urlsplit(url.text).netloc}"
    return url.options.get("endpoint", "")


async def _check_listing(name: str, binding: Binding) -> Check:
    """List one key of the bucket."""
    origins = Origins()
    origin = origins.make(binding)
    start = clock.steady()
    try:
        async with asyncio.timeout(DOCTOR_ORIGIN_SECONDS_MAX):
            await origin.list(limit=1)
    except HeadraceError as problem:
        return Check(name, FAIL, problem.message, "Check the bucket's name, the credentials and the network.")
    except TimeoutError:
        found = f"{redacted(binding.url)} gave no answer within {DOCTOR_ORIGIN_SECONDS_MAX:.0f} s"
        return Check(name, FAIL, found, "Check the network and the endpoint.")
    finally:
        await origin.close()
        origins.close()
    return Check(name, OK, f"{redacted(binding.url)} answers a listing in {(clock.steady() - start) * 1000:.0f} ms")


def _check_skew(name: str, endpoint: str) -> Check:
    """Compare the Date header of any answer, errors included, with our clock."""
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - an endpoint of the user's own settings
    try:
        with urllib.request.urlopen(request, timeout=DOCTOR_ORIGIN_SECONDS_MAX) as answer:  # noqa: S310 - see above
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as problem:
        date = problem.headers.get("Date")
        problem.close()
    except (OSError, http.client.HTTPException, ValueError) as problem:
        return Check(f"{name}: clock", FAIL, f"{endpoint} cannot be reached: {problem}", "Check the network and proxy.")
    if not date:
        return Check(f"{name}: clock", OK, "the origin does not tell its time")
    try:
        skew = parsedate_to_datetime(date).timestamp() - clock.wall()
    except ValueError:
        return Check(f"{name}: clock", WARN, f"the origin's Date is unreadable: {date}", "Ask who runs it.")
    found = f"the origin's clock differs by {skew:+.0f} s"
    if abs(skew) >= CLOCK_SKEW_SECONDS_MAX:
        return Check(f"{name}: clock", FAIL, found, "Set this machine's clock (NTP); signatures are refused like this.")
    if abs(skew) >= _SKEW_SECONDS_NOTED:
        return Check(f"{name}: clock", WARN, found, "Set this machine's clock (NTP).")
    return Check(f"{name}: clock", OK, found)
