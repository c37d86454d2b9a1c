"""The house rules that no linter states: lengths, documented names, banned calls, forgotten markers.

Goal: a file, function or name that breaks a rule fails with its place and what to do. Method: parse
every Python file of the project once and collect all offences of one rule in one assertion. The last
test plants an offence of each kind, so that a rule which sees nothing cannot pass.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "headrace"
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

ABBREVIATIONS = {
    "addr": "address",
    "arr": "array",
    "auth": "authorization, or what is meant",
    "buf": "buffer",
    "cb": "callback",
    "cfg": "settings",
    "cnt": "count",
    "conf": "settings",
    "config_dict": "settings",
    "ctx": "context, or what is meant",
    "cur": "current",
    "desc": "descriptor",
    "dst": "target",
    "elem": "element",
    "err": "error",
    "evt": "event",
    "fn": "function",
    "hdr": "header",
    "hdrs": "headers",
    "impl": "what it is",
    "lst": "what it lists",
    "mgr": "what it does",
    "msg": "message",
    "num": "count",
    "ptr": "pointer",
    "req": "request",
    "res": "result or response",
    "resp": "response",
    "ret": "result",
    "sz": "size",
    "tmp": "what it holds",
    "util": "what it does",
    "utils": "what it does",
    "val": "value",
}
CHUNK = "chunk"
CHUNK_IS_RIGHT = re.compile(r"aws.?chunk|chunked|chunk_(signature|header|size)|invalidchunk|chunk_bytes", re.IGNORECASE)
MARKERS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")


class Offence(NamedTuple):
    """Where a rule is broken and what to do."""

    place: str
    advice: str

    def __str__(self) -> str:
        return f"{self.place}: {self.advice}"


class Parsed(NamedTuple):
    """One Python file, read once."""

    name: str
    text: str
    tree: ast.Module


def parse(name: str, text: str) -> Parsed:
    return Parsed(name, text, ast.parse(text, filename=name))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def long_files(file: Parsed) -> Iterator[Offence]:
    count = file.text.count("\n")
    if count >= FILE_LINES_MAX:
        yield Offence(file.name, f"{count} lines; cut it where it does two things (under {FILE_LINES_MAX})")


def long_functions(file: Parsed) -> Iterator[Offence]:
    for node in functions(file.tree):
        count = (node.end_lineno or node.lineno) - node.lineno + 1
        if count >= FUNCTION_LINES_MAX:
            yield Offence(f"{file.name}:{node.lineno} {node.name}", f"{count} lines (under {FUNCTION_LINES_MAX})")


def undocumented(file: Parsed) -> Iterator[Offence]:
    if ast.get_docstring(file.tree) is None:
        yield Offence(file.name, "say in a docstring what this module decides")
    waiting: list[tuple[str, ast.AST]] = [("", file.tree)]
    while waiting:
        prefix, parent = waiting.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.If | ast.Try):
                waiting.append((prefix, node))
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") or _inherits_its_words(node):
                continue
            if ast.get_docstring(node) is None:
                yield Offence(f"{file.name}:{node.lineno} {prefix}{node.name}", "public, so it needs a docstring")
            if isinstance(node, ast.ClassDef):
                waiting.append((f"{prefix}{node.name}.", node))


def _inherits_its_words(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """An overload or an override is documented where it is first declared."""
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(names & {"override", "overload", "setter"})


def abbreviations(file: Parsed) -> Iterator[Offence]:
    for line, name in _names(file.tree):
        for word in name.lower().strip("_").split("_"):
            if word in ABBREVIATIONS:
                yield Offence(f"{file.name}:{line} {name}", f"say {ABBREVIATIONS[word]} instead of {word}")
        if CHUNK in name.lower() and not CHUNK_IS_RIGHT.search(name):
            yield Offence(f"{file.name}:{line} {name}", "a cached piece is a block; chunk is only aws-chunked framing")


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def markers(file: Parsed) -> Iterator[Offence]:
    for number, line in enumerate(file.text.splitlines(), 1):
        if MARKERS.search(line):
            yield Offence(f"{file.name}:{number}", "do it now, or file it; no markers stay behind")


def stubs(file: Parsed) -> Iterator[Offence]:
    for node in functions(file.tree):
        body = [line for line in node.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
        abstract = any("abstractmethod" in ast.unparse(decorator) for decorator in node.decorator_list)
        only = body[0] if len(body) == 1 else None
        raised = only.exc if isinstance(only, ast.Raise) else None
        promise = "promise" in (ast.get_docstring(node) or "").lower()
        if raised is not None and not abstract and not promise and ast.unparse(raised) == "NotImplementedError":
            yield Offence(f"{file.name}:{node.lineno} {node.name}", "a stub; write it or remove it")


def clocks_and_chance(file: Parsed) -> Iterator[Offence]:
    if file.name.startswith("src/headrace/base/"):
        return
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            yield Offence(f"{file.name}:{node.lineno}", "use headrace.base.rng")
        if isinstance(node, ast.ImportFrom) and node.module in {"random", "time"} and node.level == 0:
            yield Offence(f"{file.name}:{node.lineno}", "use headrace.base.clock or .rng")
        if isinstance(node, ast.Call) and re.fullmatch(
            r"time\.(time|time_ns|monotonic|monotonic_ns|perf_counter|perf_counter_ns|clock_gettime|process_time)"
            r"|datetime\.(datetime\.)?(now|utcnow|today)|random\.\w+",
            ast.unparse(node.func),
        ):
            yield Offence(f"{file.name}:{node.lineno} {ast.unparse(node.func)}", "use headrace.base.clock or .rng")


EVERYWHERE = (long_files, long_functions, markers)
IN_SOURCE = (undocumented, abbreviations, stubs, clocks_and_chance)


def project_files(*folders: str) -> list[Parsed]:
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert paths, f"no Python files under {folders}"
    return [parse(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in paths]


@pytest.fixture(scope="module")
def source() -> list[Parsed]:
    return project_files("src")


@pytest.fixture(scope="module")
def everything(source: list[Parsed]) -> list[Parsed]:
    return source + project_files("tests", "benchmarks", "examples")


@pytest.mark.parametrize("rule", EVERYWHERE, ids=lambda rule: rule.__name__)
def test_every_file(rule, everything):
    offences = [str(offence) for file in everything for offence in rule(file)]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize("rule", IN_SOURCE, ids=lambda rule: rule.__name__)
def test_source(rule, source):
    offences = [str(offence) for file in source for offence in rule(file)]
    assert not offences, "\n".join(offences)


def test_locks_name_no_place():
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        text = lock.read_text(encoding="utf-8")
        assert "--hash=sha256:" in text, f"{lock.name} has no hashes"
        assert "://" not in text, f"{lock.name} holds an address"
        assert "--index" not in text, f"{lock.name} chooses an index"
        assert "--find-links" not in text, f"{lock.name} chooses an index"


PLANTED = """
import random
import time

class Thing:
    def visible(self, req):
        tmp = time.time()
        return tmp

def later():
    raise NotImplementedError
"""


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (long_files, '"""Words."""\n' * FILE_LINES_MAX),
        (long_functions, "def long():\n" + "    pass\n" * FUNCTION_LINES_MAX),
        (markers, "# TO" + "DO: later\n"),
        (undocumented, PLANTED),
        (abbreviations, PLANTED),
        (abbreviations, "chunk = 1\n"),
        (stubs, PLANTED),
        (clocks_and_chance, PLANTED),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_planted_offence_is_seen(rule, text):
    assert list(rule(parse("src/headrace/cache/planted.py", text)))
