"""Request documents: hostile XML into a small tree, and the tree into values by the model's shapes.

Expat does the reading. A document type declaration, an entity declaration, a processing
instruction, more than 4 MiB, 64 levels or 200,000 elements make the document MalformedXML, so
neither entity expansion nor deep nesting can cost memory or time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.parsers import expat

from botocore.model import ListShape, Shape, StructureShape

from headrace.base.errors import Invalid
from headrace.base.limits import XML_BODY_BYTES_MAX, XML_DEPTH_MAX, XML_ELEMENTS_MAX
from headrace.gateway.times import parse_time

Value = Any
Reader = Callable[["Element"], Value]


class Element:
    """One element: local name, attributes (local names), text directly inside, children."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.text = ""
        self.children: list[Element] = []


def malformed(why: str) -> Invalid:
    """The error for a document that isn't what S3 wants."""
    return Invalid(
        f"The XML you provided was not well-formed or did not validate against our published schema: {why}",
        kind="MalformedXML",
    )


def _local(name: str) -> str:
    """The name without its namespace (expat writes `uri name`)."""
    return name.rpartition(" ")[2]


class _Builder:
    """Expat's handlers; they build the tree and keep the bounds."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._texts: list[list[str]] = []
        self._count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) >= XML_DEPTH_MAX or self._count > XML_ELEMENTS_MAX:
            raise malformed("too deep or too many elements")
        element = Element(_local(name), {_local(key): value for key, value in attributes.items()})
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)
        self._texts.append([])

    def text(self, data: str) -> None:
        self._texts[-1].append(data)

    def end(self, _name: str) -> None:
        self._open.pop().text = "".join(self._texts.pop())

    def refuse(self, *_arguments: object) -> None:
        raise malformed("document type and entity declarations are not allowed")


def read_document(body: bytes) -> Element:
    """The root element of a document. Raises Invalid, kind MalformedXML."""
    if len(body) > XML_BODY_BYTES_MAX:
        raise malformed(f"more than {XML_BODY_BYTES_MAX} bytes")
    builder = _Builder()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = builder.refuse
    parser.EntityDeclHandler = builder.refuse
    parser.ProcessingInstructionHandler = builder.refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, UnicodeError, LookupError, ValueError) as error:
        if isinstance(error, Invalid):
            raise
        raise malformed(str(error)) from None
    if builder.root is None:
        raise malformed("no element")
    return builder.root


def wire_name(member_name: str, member: Shape) -> str:
    """How a structure's member is called in a document."""
    if isinstance(member, ListShape) and member.serialization.get("flattened"):
        return str(member.serialization.get("name") or member.member.serialization.get("name") or member_name)
    return str(member.serialization.get("name", member_name))


def reader_of(shape: Shape, building: dict[str, Reader] | None = None) -> Reader:
    """A function that turns an element into a value of `shape`."""
    known = {} if building is None else building
    if shape.type_name == "structure" and isinstance(shape, StructureShape):
        return _structure_reader(shape, known)
    if isinstance(shape, ListShape):
        item = reader_of(shape.member, known)
        wanted = shape.member.serialization.get("name", "member")
        return lambda element: [item(child) for child in element.children if child.name == wanted]
    return _SCALARS.get(shape.type_name) or (
        _read_timestamp if shape.type_name == "timestamp" else lambda element: element.text
    )


def _structure_reader(shape: StructureShape, building: dict[str, Reader]) -> Reader:
    """Reader of a structure; recursive shapes meet their own reader again."""
    if shape.name in building:
        return building[shape.name]

    def itself(element: Element) -> Value:
        return building[shape.name](element)

    building[shape.name] = itself
    single: dict[str, tuple[str, Reader]] = {}
    repeated: dict[str, tuple[str, Reader]] = {}
    attributes: dict[str, str] = {}
    for name, member in shape.members.items():
        wire = wire_name(name, member)
        if member.serialization.get("location"):
            continue
        if member.serialization.get("xmlAttribute"):
            attributes[wire.rpartition(":")[2]] = name
        elif isinstance(member, ListShape) and member.serialization.get("flattened"):
            repeated[wire] = (name, reader_of(member.member, building))
        else:
            single[wire] = (name, reader_of(member, building))
    required = tuple(name for name in shape.required_members if not shape.members[name].serialization.get("location"))

    def read(element: Element) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for child in element.children:
            if child.name in single:
                name, reader = single[child.name]
                if name in values:
                    raise malformed(f"{child.name} twice")
                values[name] = reader(child)
            elif child.name in repeated:
                name, reader = repeated[child.name]
                values.setdefault(name, []).append(reader(child))
        for wire, name in attributes.items():
            if wire in element.attributes:
                values[name] = element.attributes[wire]
        for name in required:
            if name not in values:
                raise malformed(f"{element.name} without {name}")
        return values

    building[shape.name] = read
    return read


def _read_integer(element: Element) -> int:
    text = element.text.strip()
    try:
        if len(text) > 20 or not text.isascii():
            raise ValueError
        return int(text)
    except ValueError:
        raise malformed(f"{element.name} is not a number") from None


def _read_boolean(element: Element) -> bool:
    text = element.text.strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise malformed(f"{element.name} is not a boolean")
    return text in ("true", "1")


def _read_timestamp(element: Element) -> float:
    seconds = parse_time(element.text.strip())
    if seconds is None:
        raise malformed(f"{element.name} is not a time")
    return seconds


_SCALARS: dict[str, Reader] = {"integer": _read_integer, "long": _read_integer, "boolean": _read_boolean}
