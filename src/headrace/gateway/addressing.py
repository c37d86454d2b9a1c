"""Which bucket and key a request names: path-style and virtual-hosted addressing on one port."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from headrace.base.errors import Invalid


def host_name(host: str) -> str:
    """The Host header without its port, in lower case."""
    text = host.strip().lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]


def bucket_of_host(host: str, domains: tuple[str, ...]) -> str:
    """The bucket in front of one of our domains, "" for path-style requests."""
    name = host_name(host)
    for domain in domains:
        if name.endswith("." + domain):
            return name[: -len(domain) - 1]
    return ""


def decode(raw: bytes) -> str:
    """Percent-decode one piece of a path or query. Raises Invalid unless it is UTF-8 without NUL."""
    try:
        text = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid("Couldn't parse the specified URI: it is not UTF-8.", kind="InvalidURI") from None
    if "\0" in text:
        raise Invalid("Couldn't parse the specified URI: it holds a NUL byte.", kind="InvalidURI")
    return text


def split_path(path: bytes, bucket_from_host: str) -> tuple[str, str]:
    """(bucket, key) of a request path; keys are kept byte-exact, `//` and `..` included."""
    if bucket_from_host:
        return bucket_from_host, decode(path[1:])
    bucket, _, key = path[1:].partition(b"/")
    return decode(bucket), decode(key)


def parse_query(query: bytes) -> dict[str, str]:
    """Query parameters, decoded; of a repeated name the first value counts."""
    params: dict[str, str] = {}
    for item in query.split(b"&"):
        if item:
            name, _, value = item.partition(b"=")
            params.setdefault(decode(name.replace(b"+", b" ")), decode(value.replace(b"+", b" ")))
    return params
