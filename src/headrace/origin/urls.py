"""Origin URLs: what `--origin` and `headrace bucket add` accept, and the origin each one names.

    store:///dir                     embedded durable store in a folder of this machine
    file:///dir                      an existing folder, each file an object
    s3://bucket/prefix?endpoint=http://host:port&region=r&addressing=path&anonymous=true&profile=p
    s3://                            every bucket that the credentials reach
    gs://bucket/prefix               Google Cloud Storage
    az://container/prefix?account=a  Azure Blob Storage
    https://host/path                a web server, read only (http:// too)
    memory://name                    lives and dies with the process: for trials

A key and secret may stand before the host (`s3://key:secret@bucket/`), which is discouraged: URLs
end up in process lists and logs. The host's own credential chain is asked where they are absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from headrace.base.errors import Invalid

_S3_OPTIONS = frozenset({"endpoint", "region", "addressing", "anonymous", "profile"})
_OPTIONS: Mapping[str, frozenset[str]] = {
    "store": frozenset(),
    "file": frozenset(),
    "s3": _S3_OPTIONS,
    "gs": frozenset({"endpoint", "anonymous", "credentials"}),
    "az": frozenset({"account", "endpoint", "anonymous", "emulator"}),
    "https": frozenset(),
    "http": frozenset(),
    "memory": frozenset(),
}
_ADDRESSING = ("auto", "path", "virtual")
SCHEMES = tuple(_OPTIONS)
"""Every scheme an origin URL may have."""


@dataclass(frozen=True, slots=True)
class OriginUrl:
    """One origin URL, taken apart.

    `bucket` is the remote bucket, container or host ("" for an account, `store` and `file`); `prefix`
    is what every key is put behind, "" or ending in "/"; `path` is a folder on this machine.
    """

    text: str = field(repr=False)
    scheme: str
    bucket: str = ""
    prefix: str = ""
    path: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def account(self) -> bool:
        """True for `s3://` without a bucket: every bucket the credentials reach."""
        return self.scheme == "s3" and not self.bucket

    @property
    def local(self) -> bool:
        """True when the bytes lie in a folder of this machine."""
        return self.scheme in {"store", "file"}

    def flag(self, name: str) -> bool:
        """The option read as yes or no; absent is no. Raises Invalid."""
        value = self.options.get(name, "").lower()
        if value in {"true", "1", "yes"}:
            return True
        if value in {"", "false", "0", "no"}:
            return False
        raise Invalid(f"{redacted(self.text)}: {name}={value} is neither true nor false")


def redacted(url: str) -> str:
    """The URL without key and secret, fit for logs."""
    scheme, mark, rest = url.partition("://")
    authority = rest.split("/", 1)[0].split("?", 1)[0]
    if mark and "@" in authority:
        return f"{scheme}://***@{rest[authority.rindex('@') + 1 :]}"
    return url


def parse(url: str) -> OriginUrl:
    """Take an origin URL apart. Raises Invalid with what is wrong and what would be right."""
    scheme, mark, _ = url.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in _OPTIONS:
        raise Invalid(
            f"{redacted(url)!r} is no origin URL: it starts with none of {', '.join(f'{s}://' for s in SCHEMES)}"
        )
    try:
        parts = urlsplit(url)
        port = parts.port if scheme in {"http", "https"} else None
    except ValueError as error:
        raise Invalid(f"{redacted(url)!r} is no origin URL: {error}") from error
    if parts.fragment:
        raise Invalid(f"{redacted(url)!r}: an origin URL has no #fragment (write %23)")
    if scheme in {"store", "file"}:
        return _local(url, scheme, parts.netloc, parts.path, parts.query)
    options = _options(url, scheme, parts.query)
    user, at, host = parts.netloc.rpartition("@")
    access_key, _, secret_key = user.partition(":")
    if at and not (scheme == "s3" and access_key and secret_key):
        raise Invalid(f"{redacted(url)!r}: only s3:// takes credentials in the URL, as key:secret@bucket")
    path = unquote(parts.path).lstrip("/") if scheme not in {"http", "https"} else parts.path.lstrip("/")
    prefix = f"{path.rstrip('/')}/" if path.strip("/") else ""
    if not host and scheme not in {"s3", "memory"}:
        raise Invalid(f"{redacted(url)!r} names no {'host' if scheme.startswith('http') else 'bucket'}")
    if not host and prefix:
        raise Invalid(f"{redacted(url)!r} has a prefix but no bucket")
    if port is None and ":" in host and not scheme.startswith("http"):
        raise Invalid(f"{redacted(url)!r}: a bucket has no port; put the server into ?endpoint=http://host:port")
    found = OriginUrl(
        text=url, scheme=scheme, bucket=host, prefix=prefix, access_key=unquote(access_key),
        secret_key=unquote(secret_key), options=options,
    )  # fmt: skip
    if scheme == "s3":
        _check_s3(found)
    return found


def _local(url: str, scheme: str, host: str, path: str, query: str) -> OriginUrl:
    """The folder behind `store:///dir` or `file:///dir`."""
    if host not in {"", "localhost"}:
        raise Invalid(f"{url!r}: {scheme}:// takes an absolute folder, with three slashes: {scheme}:///{host}{path}")
    folder = unquote(path)
    if not folder or "\0" in folder:
        raise Invalid(f"{url!r} names no folder: write {scheme}:///absolute/folder")
    _options(url, scheme, query)
    return OriginUrl(text=url, scheme=scheme, path=folder.rstrip("/") or "/")


def _options(url: str, scheme: str, query: str) -> dict[str, str]:
    """The `?name=value` options; an unknown one is an error, since it would be silently ignored."""
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS[scheme]:
            known = ", ".join(sorted(_OPTIONS[scheme])) or "no option"
            raise Invalid(f"{redacted(url)!r}: {scheme}:// knows {known}, not {name!r}")
        options[name] = value
    return options


def _check_s3(url: OriginUrl) -> None:
    """Options of `s3://` that have a form."""
    addressing = url.options.get("addressing", "auto")
    if addressing not in _ADDRESSING:
        raise Invalid(f"{redacted(url.text)!r}: addressing is one of {', '.join(_ADDRESSING)}, not {addressing!r}")
    endpoint = url.options.get("endpoint")
    if endpoint is not None:
        parts = urlsplit(endpoint)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise Invalid(f"{redacted(url.text)!r}: endpoint must look like https://host:port, not {endpoint!r}")
    if url.flag("anonymous") and url.access_key:
        raise Invalid(f"{redacted(url.text)!r}: anonymous=true and a key contradict each other")


def named(text: str) -> tuple[str, str]:
    """Split `--origin`'s NAME=URL into bucket name and URL; a bare `s3://` has the name "".

    Raises Invalid when the URL is bad or a name is missing.
    """
    head, mark, _ = text.partition("://")
    name, equals, scheme = head.partition("=")
    if not mark:
        raise Invalid(f"{text!r}: write --origin NAME=URL, for example data=s3://bucket/prefix")
    url = text[len(name) + 1 :] if equals else text
    parsed = parse(url)
    if not equals:
        if parsed.account:
            return "", url
        raise Invalid(f"{redacted(text)!r} needs a bucket name in front: NAME={redacted(url)}")
    if parsed.account:
        raise Invalid(f"{name}={scheme}:// names no bucket; give {scheme}:// alone to see every bucket")
    if not name:
        raise Invalid(f"{redacted(text)!r}: the bucket name before = is empty")
    return name, url


def bucket_url(account: OriginUrl, bucket: str) -> str:
    """The URL of one bucket of an account URL, with the account's options."""
    _, _, rest = account.text.partition("://")
    authority, question, query = rest.partition("?")
    user = authority.rstrip("/").rpartition("@")[0]
    return f"s3://{user}{'@' if user else ''}{quote(bucket)}/{question}{query}"
