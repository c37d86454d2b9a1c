"""Settings from file < environment < flags, with the source of each value kept."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from headrace.base.errors import Invalid
from headrace.config.settings import DATA_DEFAULT, Description, Settings, describe
from headrace.config.units import parse_bytes

CONFIG_NAME = "headrace.toml"
_VARIABLE_CONFIG = "HEADRACE_CONFIG"


class Loaded(NamedTuple):
    """Settings and, for each, where its value came from ("default", "file ...", "environment ...", "flag ...")."""

    settings: Settings
    sources: dict[str, str]


class Tier(NamedTuple):
    """One cache directory and its limit."""

    path: Path
    size_bytes: int


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    """Merge defaults, file, environment and flags (a flag of None was not given). Raises Invalid."""
    env = os.environ if environment is None else environment
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    descriptions = {description.name: description for description in describe()}
    values: dict[str, Any] = {}
    sources = dict.fromkeys(descriptions, "default")
    path = _config_path(given, config, env)
    if path is not None:
        for name, value in _read_file(path, descriptions).items():
            values[name], sources[name] = value, f"file {path}"
    for name, description in descriptions.items():
        text = env.get(description.variable)
        if text is not None:
            values[name] = _from_text(text, description)
            sources[name] = f"environment {description.variable}"
    for name, value in given.items():
        values[name], sources[name] = value, f"flag {descriptions[name].flag}"
    settings = _convert(values, sources)
    _check(settings, sources)
    return Loaded(settings, sources)


def _config_path(given: Mapping[str, Any], config: str | Path | None, env: Mapping[str, str]) -> Path | None:
    """The file to read: the named one (which must exist), else DATA/headrace.toml when it exists."""
    named = config or env.get(_VARIABLE_CONFIG)
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise Invalid(f"The configuration file {path} does not exist; check --config or {_VARIABLE_CONFIG}.")
        return path
    data = given.get("data") or env.get("HEADRACE_DATA") or DATA_DEFAULT
    path = Path(data).expanduser() / CONFIG_NAME
    return path if path.is_file() else None


def _read_file(path: Path, known: Mapping[str, Description]) -> dict[str, Any]:
    """The file's table of settings. Raises Invalid for bad TOML or an unknown name."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise Invalid(f"Cannot read the configuration file {path}: {problem}. It must be TOML in UTF-8.") from problem
    for name in table:
        if name not in known:
            raise Invalid(
                f"{path} sets {name!r}, which is no setting; remove it. `headrace config show` lists all settings."
            )
    return table


def _from_text(text: str, description: Description) -> Any:
    """An environment variable's text as a value for conversion; lists are separated by commas."""
    if isinstance(description.default, tuple):
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if isinstance(description.default, bool):
        lowered = text.strip().lower()
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}.get(
            lowered, text
        )
    return text.strip()


def _convert(values: Mapping[str, Any], sources: Mapping[str, str]) -> Settings:
    """Typed settings; each value is converted by itself so that an error can name its source."""
    described = {description.name: description for description in describe()}
    for name, value in values.items():
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as problem:
            shown = "(not shown)" if name == "secret_key" else repr(value)
            reason = str(problem).split(" - at ")[0]
            raise Invalid(
                f"Bad value {shown} for {name} ({sources[name]}): {reason}. {name} is {described[name].kind}: "
                f"{described[name].sentence}"
            ) from problem
    return msgspec.convert(dict(values), Settings, strict=False)


def _check(settings: Settings, sources: Mapping[str, str]) -> None:
    """Relations between settings and forms that types do not catch. Raises Invalid."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise Invalid("tls_cert and tls_key belong together; give both or neither.")
    if bool(settings.access_key) != bool(settings.secret_key):
        raise Invalid("access_key and secret_key belong together; give both or neither.")
    for name in ("tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path and not Path(path).expanduser().is_file():
            raise Invalid(f"{name} ({sources[name]}) names {path}, which does not exist.")
    for item in settings.origin:
        if item != "s3://" and not is_binding(item):
            raise Invalid(
                f"Bad origin {item!r} ({sources['origin']}); write NAME=URL such as photos=s3://photos or "
                "scratch=file:///data/scratch, or s3:// for every bucket of this host's AWS credentials."
            )
    tiers(settings)


def is_binding(text: str) -> bool:
    """True for NAME=URL."""
    name, equals, url = text.partition("=")
    return bool(name and equals and "://" in url)


def tiers(settings: Settings) -> list[Tier]:
    """The configured cache directories; empty when none was given. Raises Invalid."""
    parsed = []
    for item in settings.tier:
        path, colon, size = item.rpartition(":")
        if not colon or not path:
            raise Invalid(f"Bad tier {item!r}; write DIR:SIZE such as /mnt/nvme0/headrace:800GiB.")
        parsed.append(Tier(Path(path).expanduser().absolute(), parse_bytes(size)))
    if len({tier.path for tier in parsed}) != len(parsed):
        raise Invalid("The same directory is named as a tier twice; give each tier a directory of its own.")
    return parsed


def data_directory(settings: Settings) -> Path:
    """The data directory as an absolute path."""
    return Path(settings.data).expanduser().absolute()


def dump(settings: Settings) -> bytes:
    """Settings as JSON for a child process."""
    return msgspec.json.encode(settings)


def restore(raw: bytes) -> Settings:
    """Settings from `dump`."""
    return msgspec.json.decode(raw, type=Settings)
