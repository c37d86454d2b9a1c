"""Errors into answers: one table from an error's kind to its HTTP status and default message.

Kinds are S3's own codes where S3 has one. What headrace raises on purpose says so in its message;
anything else becomes InternalError with the request id, its text goes to the log alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import structlog

from headrace.base.errors import Bug, Busy, Conflict, Damaged, Denied, HeadraceError, Invalid, NotFound, Unavailable
from headrace.gateway.codec import render_error_document
from headrace.gateway.messages import Request, Response

log = structlog.get_logger("headrace.gateway")


class Kind(NamedTuple):
    """HTTP status and message of one error code."""

    status: int
    message: str


KINDS: dict[str, Kind] = {
    "AccessControlListNotSupported": Kind(400, "The bucket does not allow ACLs."),
    "AccessDenied": Kind(403, "Access Denied"),
    "AccessForbidden": Kind(403, "CORSResponse: CORS is not enabled for this bucket."),
    "AuthorizationHeaderMalformed": Kind(400, "The authorization header is malformed."),
    # S3 says 400; clients and other servers treat a presigned URL that can't be valid as forbidden.
    "AuthorizationQueryParametersError": Kind(403, "The authorization query parameters are malformed."),
    "BadDigest": Kind(400, "The Content-MD5 or checksum value you specified did not match what we received."),
    "BadRequest": Kind(400, "Bad Request"),
    "BucketAlreadyExists": Kind(409, "The requested bucket name is not available."),
    "BucketAlreadyOwnedByYou": Kind(409, "Your previous request to create the named bucket succeeded."),
    "BucketNotEmpty": Kind(409, "The bucket you tried to delete is not empty."),
    "ConditionalRequestConflict": Kind(409, "A conflicting operation is in progress against this resource. Try again."),
    "CredentialsNotSupported": Kind(400, "This request does not support credentials."),
    "EntityTooLarge": Kind(400, "Your proposed upload exceeds the maximum allowed object size."),
    "EntityTooSmall": Kind(400, "Your proposed upload is smaller than the minimum allowed object size."),
    "ExpiredToken": Kind(400, "The provided token has expired."),
    "IllegalLocationConstraintException": Kind(400, "The location constraint is not this node's region."),
    "IllegalVersioningConfigurationException": Kind(400, "The versioning configuration is invalid."),
    "IncompleteBody": Kind(400, "You did not provide the number of bytes announced by the request."),
    "InternalError": Kind(500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": Kind(403, "The access key id you provided does not exist in our records."),
    "InvalidArgument": Kind(400, "Invalid Argument"),
    "InvalidBucketName": Kind(400, "The specified bucket is not valid."),
    "InvalidBucketState": Kind(409, "The request is not valid for the current state of the bucket."),
    "InvalidChunkSizeError": Kind(403, "Only the last chunk is allowed to have a size less than 8192 bytes."),
    "InvalidDigest": Kind(400, "The Content-MD5 or checksum value that you specified is not valid."),
    "InvalidEncryptionAlgorithmError": Kind(400, "The encryption request that you specified is not valid."),
    "InvalidLocationConstraint": Kind(400, "The specified location (Region) constraint is not valid."),
    "InvalidObjectState": Kind(403, "The operation is not valid for the current state of the object."),
    "InvalidPart": Kind(400, "One or more of the specified parts could not be found."),
    "InvalidPartNumber": Kind(416, "The requested partnumber is not satisfiable"),
    "InvalidPartOrder": Kind(400, "The list of parts was not in ascending order."),
    "InvalidPolicyDocument": Kind(400, "The content of the policy does not meet the policy syntax."),
    "InvalidRange": Kind(416, "The requested range is not satisfiable"),
    "InvalidRequest": Kind(400, "Invalid Request"),
    "InvalidStorageClass": Kind(400, "The storage class you specified is not valid."),
    "InvalidTag": Kind(400, "The tag provided was not a valid tag."),
    "InvalidToken": Kind(400, "The provided token is malformed or otherwise invalid."),
    "InvalidURI": Kind(400, "Couldn't parse the specified URI."),
    "KeyTooLongError": Kind(400, "Your key is too long"),
    "MalformedACLError": Kind(400, "The ACL was not well-formed or did not validate against our published schema."),
    "MalformedPOSTRequest": Kind(400, "The body of your POST request is not well-formed multipart/form-data."),
    "MalformedPolicy": Kind(400, "This policy contains invalid Json"),
    "MalformedTrailerError": Kind(400, "The trailer is malformed or does not match x-amz-trailer."),
    "MalformedXML": Kind(400, "The XML you provided was not well-formed or did not validate against our schema."),
    "MaxMessageLengthExceeded": Kind(400, "Your request was too large."),
    "MetadataTooLarge": Kind(400, "Your metadata headers exceed the maximum allowed metadata size."),
    "MethodNotAllowed": Kind(405, "The specified method is not allowed against this resource."),
    "MissingContentLength": Kind(411, "You must provide the Content-Length HTTP header."),
    "MissingRequestBodyError": Kind(400, "Request body is empty."),
    "MissingSecurityHeader": Kind(400, "Your request is missing a required header."),
    "NoSuchBucket": Kind(404, "The specified bucket does not exist"),
    "NoSuchBucketPolicy": Kind(404, "The bucket policy does not exist"),
    "NoSuchCORSConfiguration": Kind(404, "The CORS configuration does not exist"),
    "NoSuchConfiguration": Kind(404, "The specified configuration does not exist."),
    "NoSuchKey": Kind(404, "The specified key does not exist."),
    "NoSuchLifecycleConfiguration": Kind(404, "The lifecycle configuration does not exist"),
    "NoSuchObjectLockConfiguration": Kind(404, "The specified object does not have an ObjectLock configuration"),
    "NoSuchPublicAccessBlockConfiguration": Kind(404, "The public access block configuration was not found"),
    "NoSuchTagSet": Kind(404, "The TagSet does not exist"),
    "NoSuchUpload": Kind(404, "The specified upload does not exist, or was completed or aborted."),
    "NoSuchVersion": Kind(404, "The specified version does not exist."),
    "NoSuchWebsiteConfiguration": Kind(404, "The specified bucket does not have a website configuration"),
    "NotImplemented": Kind(501, "A header or query you provided implies functionality that is not implemented"),
    "NotModified": Kind(304, "Not Modified"),
    "ObjectLockConfigurationNotFoundError": Kind(404, "Object Lock configuration does not exist for this bucket"),
    "OwnershipControlsNotFoundError": Kind(404, "The bucket ownership controls were not found"),
    "PermanentRedirect": Kind(301, "The bucket must be addressed using another endpoint."),
    "PreconditionFailed": Kind(412, "At least one of the pre-conditions you specified did not hold"),
    "QuotaExceeded": Kind(403, "The quota of the bucket or the user is exceeded."),
    "ReplicationConfigurationNotFoundError": Kind(404, "The replication configuration was not found"),
    "RequestHeaderSectionTooLarge": Kind(400, "Your request header section exceeds the maximum allowed size."),
    "RequestTimeTooSkewed": Kind(403, "The difference between the request time and the server's time is too large."),
    "RequestTimeout": Kind(400, "Your socket connection to the server was not read from or written to in time."),
    "ServerSideEncryptionConfigurationNotFoundError": Kind(404, "The server side encryption was not configured"),
    "ServiceUnavailable": Kind(503, "Service is unable to handle request. Try again later."),
    "SignatureDoesNotMatch": Kind(403, "The request signature we calculated does not match the one you provided."),
    "SlowDown": Kind(503, "Please reduce your request rate."),
    "TooManyBuckets": Kind(400, "You have attempted to create more buckets than allowed"),
    "TooManyParts": Kind(400, "You have attempted to upload more parts than allowed."),
    "UnexpectedContent": Kind(400, "This request contains unsupported content."),
    "UnresolvableGrantByEmailAddress": Kind(400, "The e-mail address you provided does not match any account."),
    "UnsupportedArgument": Kind(400, "The request contained an unsupported argument."),
    "UnsupportedMediaType": Kind(415, "The media type is not supported."),
    "XAmzContentChecksumMismatch": Kind(400, "The provided checksum does not match what was computed."),
    "XAmzContentSHA256Mismatch": Kind(400, "The x-amz-content-sha256 header does not match what was computed."),
}


class _Reported(Bug):
    """A failure of headrace's own that is in the log already."""


_CLASS_STATUS: tuple[tuple[type[HeadraceError], int], ...] = (
    (NotFound, 404),
    (Conflict, 409),
    (Denied, 403),
    (Invalid, 400),
    (Busy, 503),
    (Unavailable, 503),
    (Damaged, 500),
    (Bug, 500),
)


def status_of(error: HeadraceError) -> int:
    """The HTTP status: by the kind, else by the class."""
    known = KINDS.get(error.kind)
    if known is not None:
        return known.status
    return next((status for kind, status in _CLASS_STATUS if isinstance(error, kind)), 500)


def message_of(error: HeadraceError) -> str:
    """What the error says, or the table's message when it says nothing."""
    known = KINDS.get(error.kind)
    return error.message or (known.message if known else error.kind)


def known_error(error: BaseException, request_id: str) -> HeadraceError:
    """The error itself when headrace raised it, else a bare InternalError; the rest is logged."""
    if isinstance(error, _Reported) or (isinstance(error, HeadraceError) and not isinstance(error, Bug | Damaged)):
        return error
    if isinstance(error, HeadraceError):
        log.error("request failed", request_id=request_id, kind=error.kind, message=error.message)
        return _Reported(error.message, kind=error.kind)
    log.error("request failed unexpectedly", request_id=request_id, error=repr(error), exc_info=error)
    return _Reported(KINDS["InternalError"].message)


def _headers(error: HeadraceError, status: int) -> list[tuple[str, str]]:
    """Headers that belong to the error itself."""
    headers: list[tuple[str, str]] = []
    if isinstance(error, Busy):
        headers.append(("Retry-After", str(max(1, math.ceil(error.retry_after)))))
    elif status == 503:
        headers.append(("Retry-After", "1"))
    if status == 304:
        headers.extend((name, error.details[name]) for name in ("ETag", "Last-Modified") if name in error.details)
    if status == 416 and "ActualObjectSize" in error.details:
        headers.append(("Content-Range", f"bytes */{error.details['ActualObjectSize']}"))
    return headers


def error_response(request: Request | None, error: BaseException) -> Response:
    """S3's answer to an error: the document, except after HEAD and with 304.

    `error.details` become fields of the document; of a NotModified, ETag and Last-Modified become headers.
    """
    request_id = request.request_id if request is not None else ""
    known = known_error(error, request_id)
    status = status_of(known)
    headers = _headers(known, status)
    if status == 304 or (request is not None and request.method == "HEAD"):
        return Response(status=status, headers=headers, length=0)
    fields = {"Code": known.kind, "Message": message_of(known)}
    fields |= {name: value for name, value in known.details.items() if name not in fields}
    if request is not None:
        fields["Resource"] = request.path.decode("utf-8", "replace")
    fields["RequestId"] = request_id
    fields["HostId"] = "headrace"
    body = render_error_document(fields)
    headers.append(("Content-Type", "application/xml"))
    return Response(status=status, headers=headers, body=body, length=len(body))
