"""Origin URLs: what they mean, and what is said about bad ones."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.base.errors import Invalid
from headrace.origin.urls import SCHEMES, bucket_url, named, parse, redacted


@pytest.mark.parametrize(
    ("url", "scheme", "bucket", "prefix", "path"),
    [
        ("store:///srv/data", "store", "", "", "/srv/data"),
        ("store:///", "store", "", "", "/"),
        ("file:///a%20b/", "file", "", "", "/a b"),
        ("s3://bucket", "s3", "bucket", "", ""),
        ("S3://bucket/a/b%20c/", "s3", "bucket", "a/b c/", ""),
        ("s3://", "s3", "", "", ""),
        ("s3://?endpoint=http://127.0.0.1:8333", "s3", "", "", ""),
        ("gs://bucket/p", "gs", "bucket", "p/", ""),
        ("az://container?account=a", "az", "container", "", ""),
        ("https://host:8443/a%20b/c", "https", "host:8443", "a%20b/c/", ""),
        ("memory://", "memory", "", "", ""),
        ("memory://name", "memory", "name", "", ""),
    ],
)
def test_good_urls(url: str, scheme: str, bucket: str, prefix: str, path: str) -> None:
    found = parse(url)
    assert (found.scheme, found.bucket, found.prefix, found.path) == (scheme, bucket, prefix, path)
    assert found.text == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket", "no origin URL"),
        ("ftp://host/", "starts with none of"),
        ("store://srv/data", "three slashes"),
        ("store:", "no origin URL"),
        ("file://", "names no folder"),
        ("file:///a%00b", "names no folder"),
        ("s3:///key", "a prefix but no bucket"),
        ("s3://host:9000/bucket", "endpoint=http"),
        ("s3://bucket?endpoint=host:9000", "endpoint must look like"),
        ("s3://bucket?adressing=path", "not 'adressing'"),
        ("s3://bucket?addressing=maybe", "addressing is one of"),
        ("s3://bucket?anonymous=perhaps", "neither true nor false"),
        ("s3://k:s@bucket?anonymous=true", "contradict"),
        ("s3://key@bucket", "key:secret@bucket"),
        ("gs://k:s@bucket", "only s3://"),
        ("gs://", "names no bucket"),
        ("https:///path", "names no host"),
        ("https://host:port/", "no origin URL"),
        ("s3://bucket#x", "fragment"),
        ("store:///data?x=1", "no option"),
    ],
)
def test_bad_urls_say_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(url)
    assert said in caught.value.message


def test_secrets_stay_out_of_messages_and_repr() -> None:
    url = "s3://AKIA:se%2Fcret@bucket/p?region=r"
    found = parse(url)
    assert (found.access_key, found.secret_key) == ("AKIA", "se/cret")
    assert "cret" not in repr(found)
    assert redacted(url) == "s3://***@bucket/p?region=r"
    with pytest.raises(Invalid) as caught:
        parse("s3://AKIA:secret@bucket?nope=1")
    assert "secret" not in caught.value.message


def test_names_on_the_command_line() -> None:
    assert named("data=s3://bucket/p?region=r") == ("data", "s3://bucket/p?region=r")
    assert named("s3://") == ("", "s3://")
    assert named("s3://?profile=p") == ("", "s3://?profile=p")
    for text in ("s3://bucket", "data=s3://", "=s3://bucket", "data", "data=bucket", "a=b=c"):
        with pytest.raises(Invalid):
            named(text)


def test_buckets_of_an_account_keep_its_options() -> None:
    account = parse("s3://k:s@/?endpoint=http://h:1&region=r")
    found = parse(bucket_url(account, "b"))
    assert (found.bucket, found.access_key, found.secret_key) == ("b", "k", "s")
    assert found.options == {"endpoint": "http://h:1", "region": "r"}
    assert parse(bucket_url(parse("s3://"), "b")).bucket == "b"


@given(st.one_of(st.text(), st.builds("{}://{}".format, st.sampled_from(SCHEMES), st.text())))
def test_any_text_is_a_url_or_an_invalid_one(text: str) -> None:
    for read in (parse, named):
        with contextlib.suppress(Invalid):
            assert read(text)
