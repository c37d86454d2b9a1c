"""The object-level operations by name: what the dispatch table takes over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from headrace.gateway.copying import copy_object
from headrace.gateway.messages import Request, Response
from headrace.gateway.multipart import (
    abort_multipart_upload,
    complete_multipart_upload,
    create_multipart_upload,
    upload_part,
    upload_part_copy,
)
from headrace.gateway.multipart_lists import list_multipart_uploads, list_parts
from headrace.gateway.object_acl import get_object_acl, put_object_acl
from headrace.gateway.object_attributes import (
    delete_object_tagging,
    get_object_attributes,
    get_object_tagging,
    put_object_tagging,
)
from headrace.gateway.objects_read import get_object, head_object
from headrace.gateway.objects_write import delete_object, delete_objects, put_object

if TYPE_CHECKING:
    from headrace.gateway.context import Context

Handler = Callable[["Context", Request, dict[str, Any]], Awaitable[Response]]

OBJECT_OPERATIONS: dict[str, Handler] = {
    "AbortMultipartUpload": abort_multipart_upload,
    "CompleteMultipartUpload": complete_multipart_upload,
    "CopyObject": copy_object,
    "CreateMultipartUpload": create_multipart_upload,
    "DeleteObject": delete_object,
    "DeleteObjects": delete_objects,
    "DeleteObjectTagging": delete_object_tagging,
    "GetObject": get_object,
    "GetObjectAcl": get_object_acl,
    "GetObjectAttributes": get_object_attributes,
    "GetObjectTagging": get_object_tagging,
    "HeadObject": head_object,
    "ListMultipartUploads": list_multipart_uploads,
    "ListParts": list_parts,
    "PutObject": put_object,
    "PutObjectAcl": put_object_acl,
    "PutObjectTagging": put_object_tagging,
    "UploadPart": upload_part,
    "UploadPartCopy": upload_part_copy,
}
