"""What a writer says about an object in its request's headers, within S3's limits. Pure."""

from __future__ import annotations

from headrace.base.errors import Invalid
from headrace.base.limits import KEY_BYTES_MAX, METADATA_BYTES_MAX
from headrace.gateway.messages import Request
from headrace.gateway.tags import parse_tag_header
from headrace.model.objects import Attributes

STORED_HEADERS = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-website-redirect-location",
)
_ENCRYPTION = ("x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-algorithm")
_LOCK = ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold")
_META = b"x-amz-meta-"


def check_key(key: str) -> None:
    """Raise Invalid (KeyTooLongError, InvalidURI) when `key` cannot name an object."""
    size_bytes = len(key.encode("utf-8", "surrogatepass"))
    if size_bytes > KEY_BYTES_MAX:
        raise Invalid(
            "Your key is too long",
            kind="KeyTooLongError",
            details={"Size": str(size_bytes), "MaxSizeAllowed": str(KEY_BYTES_MAX)},
        )
    if not key or "\0" in key:
        raise Invalid("Couldn't parse the specified URI: a key is not empty and holds no NUL.", kind="InvalidURI")


def check_storage(request: Request) -> None:
    """Raise Invalid for a storage class, an encryption or a lock that headrace does not provide."""
    storage_class = request.header("x-amz-storage-class")
    if storage_class not in (None, "", "STANDARD"):
        raise Invalid(
            "The storage class you specified is not valid; only STANDARD is kept here",
            kind="InvalidStorageClass",
            details={"StorageClassRequested": storage_class or ""},
        )
    for name in _ENCRYPTION + _LOCK:
        if request.header(name):
            raise Invalid(
                f"A header you provided implies functionality that is not implemented: {name}",
                kind="NotImplemented",
                details={"Header": name},
            )


def stored_headers(request: Request) -> dict[str, str]:
    """The standard headers an object keeps; `aws-chunked` is a transfer matter and taken out."""
    kept = {}
    for name in STORED_HEADERS:
        values = [_text(raw) for key, raw in request.headers if key == name.encode()]
        if not values:
            continue
        value = ",".join(values)
        if name == "content-encoding":
            codings = [coding.strip() for coding in value.split(",")]
            value = ", ".join(coding for coding in codings if coding and coding.lower() != "aws-chunked")
        if value:
            kept[name] = value
    return kept


def _text(raw: bytes) -> str:
    """A header value as text: UTF-8 where it is, else Latin-1. Answers send it as UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def user_metadata(request: Request) -> dict[str, str]:
    """The x-amz-meta- headers without their prefix. Raises Invalid (MetadataTooLarge)."""
    metadata: dict[str, str] = {}
    size_bytes = 0
    for raw_name, raw_value in request.headers:
        if not raw_name.startswith(_META):
            continue
        name = raw_name[len(_META) :].decode("latin-1")
        value = _text(raw_value)
        metadata[name] = f"{metadata[name]},{value}" if name in metadata else value
        size_bytes += len(raw_name) - len(_META) + len(raw_value)
    if size_bytes > METADATA_BYTES_MAX:
        raise Invalid(
            "Your metadata headers exceed the maximum allowed metadata size",
            kind="MetadataTooLarge",
            details={"Size": str(size_bytes), "MaxSizeAllowed": str(METADATA_BYTES_MAX)},
        )
    return metadata


def request_attributes(request: Request, acl: str = "private") -> Attributes:
    """Everything the headers of a PutObject, CreateMultipartUpload or replacing CopyObject say.

    `acl` is the text `object_acl.requested_acl` made of the request. Checksums are not among it: they
    are known only when the body has been read.
    """
    check_storage(request)
    identity = request.identity
    return Attributes(
        headers=stored_headers(request),
        metadata=user_metadata(request),
        tags=parse_tag_header(request.header("x-amz-tagging")),
        acl=acl,
        owner=identity.name if identity.access_key else "",
    )
