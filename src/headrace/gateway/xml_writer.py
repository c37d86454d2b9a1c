"""Answer documents: values into XML by the model's shapes, through functions made once per shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import quoteattr

from botocore.model import ListShape, Shape, StructureShape

from headrace.gateway.times import http_date, iso_date, seconds_of
from headrace.gateway.xml_reader import wire_name

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'

Value = Any
Writer = Callable[[list[str], Value], None]
"""Appends the text of a value to a list of pieces."""

# Control characters can't be in XML 1.0 at all; S3 writes them as references all the same, which is
# why clients ask for encoding-type=url.
_ESCAPES = {number: f"&#x{number:x};" for number in range(32) if number not in (9, 10)}
_ESCAPES |= {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;"}


def escape(text: str) -> str:
    """Text as element content."""
    if text.isalnum():
        return text
    return text.translate(_ESCAPES)


def writer_of(tag: str, shape: Shape, building: dict[tuple[str, str], Writer] | None = None) -> Writer:
    """A function that writes `<tag>value</tag>` for a value of `shape`."""
    known = {} if building is None else building
    if shape.type_name == "structure" and isinstance(shape, StructureShape):
        return _structure_writer(tag, shape, known)
    if isinstance(shape, ListShape):
        return _list_writer(tag, shape, known)
    opening, closing = f"<{tag}>", f"</{tag}>"
    text_of = scalar_text(shape)

    def write(pieces: list[str], value: Value) -> None:
        pieces.append(opening + escape(text_of(value)) + closing)

    return write


def _list_writer(tag: str, shape: ListShape, building: dict[tuple[str, str], Writer]) -> Writer:
    """Writer of a list: items alone when flattened, else inside `<tag>`."""
    if shape.serialization.get("flattened"):
        item = writer_of(tag, shape.member, building)

        def write_flat(pieces: list[str], value: Value) -> None:
            for entry in value:
                item(pieces, entry)

        return write_flat
    item = writer_of(shape.member.serialization.get("name", "member"), shape.member, building)
    opening, closing = f"<{tag}>", f"</{tag}>"

    def write(pieces: list[str], value: Value) -> None:
        pieces.append(opening)
        for entry in value:
            item(pieces, entry)
        pieces.append(closing)

    return write


def members_writer(shape: StructureShape, building: dict[tuple[str, str], Writer]) -> Writer:
    """Writer of a structure's body members, in the model's order, without a tag around them."""
    writers = [
        (name, writer_of(wire_name(name, member), member, building))
        for name, member in shape.members.items()
        if not member.serialization.get("location") and not member.serialization.get("xmlAttribute")
    ]

    def write(pieces: list[str], value: Value) -> None:
        for name, writer in writers:
            found = value.get(name)
            if found is not None:
                writer(pieces, found)

    return write


def _structure_writer(tag: str, shape: StructureShape, building: dict[tuple[str, str], Writer]) -> Writer:
    """Writer of a structure inside `<tag>`, with its XML attributes; recursive shapes meet themselves."""
    place = (tag, shape.name)
    if place in building:
        return building[place]

    def itself(pieces: list[str], value: Value) -> None:
        building[place](pieces, value)

    building[place] = itself
    body = members_writer(shape, building)
    namespace = shape.serialization.get("xmlNamespace", {})
    prefix = namespace.get("prefix")
    declared = f' xmlns:{prefix}="{namespace["uri"]}"' if prefix else ""
    attributes = [
        (name, member.serialization.get("name", name))
        for name, member in shape.members.items()
        if member.serialization.get("xmlAttribute")
    ]
    opening, closing = f"<{tag}{declared}", f"</{tag}>"

    def write(pieces: list[str], value: Value) -> None:
        pieces.append(opening)
        for name, wire in attributes:
            if value.get(name) is not None:
                pieces.append(f" {wire}={quoteattr(str(value[name]))}")
        pieces.append(">")
        body(pieces, value)
        pieces.append(closing)

    building[place] = write
    return write


def scalar_text(shape: Shape, *, header: bool = False) -> Callable[[Value], str]:
    """How a scalar of `shape` is written: times as ISO 8601 in documents, as HTTP dates in headers."""
    if shape.type_name == "boolean":
        return lambda value: "true" if value else "false"
    if shape.type_name == "timestamp":
        wanted = shape.serialization.get("timestampFormat", "rfc822" if header else "iso8601")
        form = http_date if wanted == "rfc822" else iso_date
        return lambda value: form(int(seconds_of(value)))
    if header and shape.type_name == "list":
        return ",".join
    return str
