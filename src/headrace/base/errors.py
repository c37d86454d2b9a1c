"""The error tree, cut by what the caller will do next.

HeadraceError
 |- NotFound      look elsewhere, or give up           (also KeyError)
 |- Conflict      read again, then decide              (a condition failed, or it exists already)
 |- Denied        get other credentials
 |- Invalid       mend the request                     (also ValueError)
 |- Busy          wait `retry_after` seconds, then try again
 |- Unavailable   a part is down or cut off; try again later or elsewhere
 |- Damaged       stored bytes fail their checksum; the source must be read again
 `- Bug           headrace contradicts itself; report it

Inside a class, `kind` is a stable, append-only code. Where the kind is an S3 error it *is* the S3
code ("NoSuchKey"); `KINDS` maps each kind to its HTTP status, and the class gives the exit status.
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of all errors headrace raises on purpose.

    `message` says what happened, where, and what to do; `kind` is the stable code;
    `details` are extra fields for the S3 error document (e.g. BucketName).
    """

    kind = "InternalError"
    exit_status = 1

    def __init__(self, message: str, *, kind: str | None = None, details: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        if kind is not None:
            self.kind = kind
        self.details = details or {}

    def __str__(self) -> str:
        return self.message


class NotFound(HeadraceError, KeyError):
    """The named thing does not exist."""

    kind = "NoSuchKey"
    exit_status = 4


class Conflict(HeadraceError):
    """A condition did not hold, or the thing exists already."""

    kind = "PreconditionFailed"
    exit_status = 5


class Denied(HeadraceError):
    """The credentials are missing, wrong, or do not allow this."""

    kind = "AccessDenied"
    exit_status = 6


class Invalid(HeadraceError, ValueError):
    """The request or the setting is malformed or out of range."""

    kind = "InvalidRequest"
    exit_status = 2


class Busy(HeadraceError):
    """A bound is reached; try again after `retry_after` seconds."""

    kind = "SlowDown"
    exit_status = 7

    def __init__(
        self, message: str, *, retry_after: float = 1.0, kind: str | None = None, details: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, kind=kind, details=details)
        self.retry_after = retry_after


class Unavailable(HeadraceError):
    """A part (origin, disk, agent) cannot be reached or failed."""

    kind = "ServiceUnavailable"
    exit_status = 8


class Damaged(HeadraceError):
    """Stored bytes do not match their checksum."""

    kind = "InternalError"
    exit_status = 9


class Bug(HeadraceError):
    """An invariant of headrace itself does not hold."""

    kind = "InternalError"
    exit_status = 70
