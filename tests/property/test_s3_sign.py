"""Our signatures of requests to S3 are botocore's, whatever is signed, and this gateway takes them."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from hypothesis import given
from hypothesis import strategies as st

from headrace.base.clock import SystemClock
from headrace.gateway.sigv4 import Verifier
from headrace.origin.credentials import Keys
from headrace.origin.s3sign import Signer
from headrace.origin.s3wire import http_date, milliseconds

NOW = 1_780_000_000.0
UNSIGNED = "UNSIGNED-PAYLOAD"
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
values = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs"), include_characters=" "), max_size=8
)
"""Header values; of all spaces only HTTP's own, since only that is trimmed alike by everybody."""


class Stopped(SystemClock):
    """It is always NOW."""

    def wall(self) -> float:
        return NOW


class BotocoreSigner(botocore.auth.S3SigV4Auth):  # type: ignore[misc] # botocore has no types
    """The reference, with the payload hash given."""

    def payload(self, request: AWSRequest) -> str:
        return UNSIGNED


def expected(keys: Keys, method: str, url: str, headers: dict[str, str]) -> dict[str, str]:
    request = AWSRequest(method, url, headers=dict(headers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.fromtimestamp(NOW, UTC))
        BotocoreSigner(keys, "s3", "eu-west-3").add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@given(
    st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    names,
    st.lists(st.tuples(names, values), max_size=4),
    st.dictionaries(st.sampled_from(["range", "if-match", "x-amz-meta-a", "x-amz-meta-b", "user-agent"]), values),
    st.sampled_from([None, "token/with+signs=="]),
)
def test_a_signature_is_botocores_and_passes_the_gateway(
    method: str, key: str, query: list[tuple[str, str]], extra: dict[str, str], token: str | None
) -> None:
    keys = Keys("AKID", "secret/with+signs", token)
    pairs = [f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query]
    path = "/bucket/" + quote(key, safe="-_.~/")
    url = f"http://localhost:9000{path}" + (f"?{'&'.join(pairs)}" if pairs else "")
    headers = {"host": "localhost:9000", **extra}
    signed = dict(headers)
    signer = Signer(Stopped())
    for _ in range(2):  # the second time with a derived key that is remembered
        signer.sign(keys, method, url, signed, "eu-west-3", UNSIGNED)
        assert signed == expected(keys, method, url, headers)
    raw = [(name.encode(), value.encode()) for name, value in signed.items()]
    found = Verifier({"AKID": keys.secret_key}.get).verify(
        method, path.encode(), "&".join(pairs).encode(), raw, {}, NOW
    )
    assert found is not None
    assert found.access_key == "AKID"


@given(st.integers(0, 4_000_000_000))
def test_last_modified_is_read_like_any_mail_date(seconds: int) -> None:
    text = http_date(seconds)
    assert milliseconds(text) == seconds * 1000
    assert milliseconds(text.replace("GMT", "+0000")) == seconds * 1000


@pytest.mark.parametrize("text", ["Sun, 31 Feb 2026 10:00:00 GMT", "Sun, 01 Feb 2026 10:00:xx GMT", "nonsense", ""])
def test_an_unreadable_last_modified_is_none(text: str) -> None:
    assert milliseconds(text) == 0
