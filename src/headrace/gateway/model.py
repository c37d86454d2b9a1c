"""S3's operations and how a request finds its own, both read from botocore's packaged service model.

Nothing of the model is copied into headrace: methods, paths, query literals and required members
come from `service-2.json` as the installed botocore ships it. The route of a request is the most
specific operation whose literals and required query and header members are all present.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape, StructureShape

from headrace.base.errors import Invalid

SERVICE, BUCKET, OBJECT = range(3)
POST_OBJECT = "PostObject"
"""HTML form upload: not in the model, recognised by method and content type."""
PREFLIGHT = "PreflightRequest"
"""CORS preflight: not in the model, recognised by the method OPTIONS."""

_LEVELS = {"/": SERVICE, "/{Bucket}": BUCKET, "/{Bucket}/{Key+}": OBJECT}
_UPLOAD_PARAMS = ("uploadId", "partNumber")


@dataclass(frozen=True, slots=True)
class Operation:
    """One S3 call: where it lives, what makes a request be it, and its shapes.

    `literals` are (query name, wanted value; "" = any); `required_params` and `required_headers`
    are the wire names of members that must be sent.
    """

    name: str
    method: str
    level: int
    literals: tuple[tuple[str, str], ...]
    required_params: tuple[str, ...]
    required_headers: tuple[str, ...]
    accepted_params: frozenset[str]
    status: int
    deprecated: bool
    input_shape: StructureShape | None
    output_shape: StructureShape | None

    @property
    def rank(self) -> tuple[int, bool, str]:
        """Sort key: the most specific first, then the current name of a renamed call."""
        wanted = len(self.literals) * 2 + len(self.required_params) * 2 + len(self.required_headers)
        return -wanted, self.deprecated, self.name


def _without_documentation(node: Any) -> Any:
    """The model less its prose, which is most of its memory."""
    if isinstance(node, dict):
        return {
            key: _without_documentation(value)
            for key, value in node.items()
            if key != "documentation" or not isinstance(value, str)
        }
    if isinstance(node, list):
        return [_without_documentation(value) for value in node]
    return node


def _members(shape: Shape | None, location: str, *, required: bool) -> list[str]:
    """Wire names of the (required) members of an input that travel at `location`."""
    if not isinstance(shape, StructureShape):
        return []
    return [
        member.serialization.get("name", name)
        for name, member in shape.members.items()
        if member.serialization.get("location") == location and (not required or name in shape.required_members)
    ]


def _operation(model: OperationModel) -> Operation | None:
    """One operation of the model, or None when it doesn't live under a bucket's address."""
    path, _, query = model.http["requestUri"].partition("?")
    level = _LEVELS.get(path)
    if level is None:
        return None
    pairs = tuple((name, value) for name, _, value in (term.partition("=") for term in query.split("&") if term))
    shape = model.input_shape
    return Operation(
        name=model.name,
        method=model.http["method"],
        level=level,
        literals=pairs,
        required_params=tuple(_members(shape, "querystring", required=True)),
        # A header tells calls apart only where the query doesn't; elsewhere its absence is the call's own error.
        required_headers=() if pairs else tuple(name.lower() for name in _members(shape, "header", required=True)),
        accepted_params=frozenset(_members(shape, "querystring", required=False)) | {name for name, _ in pairs},
        status=int(model.http.get("responseCode", 200)),
        deprecated=bool(model.deprecated),
        input_shape=shape if isinstance(shape, StructureShape) else None,
        output_shape=model.output_shape if isinstance(model.output_shape, StructureShape) else None,
    )


@lru_cache(maxsize=1)
def operations() -> Mapping[str, Operation]:
    """All operations of the installed model, by name (0.2 s once per process)."""
    description = _without_documentation(Loader().load_service_model("s3", "service-2"))
    service = ServiceModel(description, "s3")
    found = (_operation(service.operation_model(name)) for name in service.operation_names)
    return {operation.name: operation for operation in found if operation is not None}


class _Routes:
    """Operations by (method, level), the most specific first, and what names a sub-resource."""

    def __init__(self) -> None:
        self.by_place: dict[tuple[str, int], tuple[Operation, ...]] = {}
        self.sub_resources: tuple[set[str], set[str], set[str]] = (set(), set(), set(_UPLOAD_PARAMS[:1]))
        places: dict[tuple[str, int], list[Operation]] = {}
        for operation in operations().values():
            places.setdefault((operation.method, operation.level), []).append(operation)
            if operation.name != "ListObjectsV2":
                self.sub_resources[operation.level].update(name for name, _ in operation.literals)
        for place, found in places.items():
            self.by_place[place] = tuple(sorted(found, key=lambda operation: operation.rank))


@lru_cache(maxsize=1)
def _routes() -> _Routes:
    return _Routes()


def _matches(operation: Operation, params: Mapping[str, str], names: set[str] | None) -> bool:
    """True when everything the operation requires was sent."""
    for name, value in operation.literals:
        if name not in params or (value and params[name] != value):
            return False
    for name in operation.required_params:
        if name not in params:
            return False
    return not operation.required_headers or (names is not None and names.issuperset(operation.required_headers))


def operation_of(
    method: str, has_bucket: bool, has_key: bool, params: Mapping[str, str], headers: Iterable[tuple[bytes, bytes]]
) -> str:
    """The name of the operation a request asks for.

    Raises Invalid, kind MethodNotAllowed when nothing has this method there, or InvalidArgument
    when the query names two sub-resources.
    """
    level = OBJECT if has_key else BUCKET if has_bucket else SERVICE
    if method == "OPTIONS":
        return PREFLIGHT
    routes = _routes()
    candidates = routes.by_place.get((method, level), ())
    names: set[str] | None = None
    if method in ("PUT", "POST"):
        names = {name.decode("latin-1") for name, _ in headers}
    for operation in candidates:
        if _matches(operation, params, names):
            return _checked(operation, level, params)
    if method == "POST" and level == BUCKET and not routes.sub_resources[BUCKET].intersection(params):
        return POST_OBJECT
    raise _unroutable(method, level, params)


def _checked(operation: Operation, level: int, params: Mapping[str, str]) -> str:
    """The operation's name, after refusing sub-resources it would silently ignore."""
    if params and operation.method != "HEAD":
        for name in params:
            if name in _routes().sub_resources[level] and name not in operation.accepted_params:
                raise _unroutable(operation.method, level, params)
    return operation.name


def _unroutable(method: str, level: int, params: Mapping[str, str]) -> Invalid:
    """Why no operation matches: two sub-resources at once, or the wrong method for the resource."""
    asked = sorted(_routes().sub_resources[level].intersection(params))
    if len(asked) > 1:
        return Invalid(f"Conflicting query string parameters: {', '.join(asked)}", kind="InvalidArgument")
    return Invalid(f"The method {method} is not allowed against this resource.", kind="MethodNotAllowed")
