"""Settings: file < environment < flags, sources kept, bad values named with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.base.errors import Invalid
from headrace.config.docs import page
from headrace.config.load import dump, load, restore, tiers
from headrace.config.settings import Settings, describe
from headrace.config.units import format_bytes, parse_bytes


def test_defaults_need_nothing(tmp_path):
    settings, sources = load({"data": str(tmp_path)}, environment={})
    assert settings.port == 9000
    assert settings.host == "127.0.0.1"
    assert set(sources.values()) == {"default", "flag --data"}


def test_flag_beats_environment_beats_file(tmp_path):
    file = tmp_path / "headrace.toml"
    file.write_text('port = 1\nworkers = 2\nregion = "eu-west-1"\n')
    settings, sources = load(
        {"data": str(tmp_path), "port": 3, "host": None}, environment={"HEADRACE_PORT": "2", "HEADRACE_WORKERS": "5"}
    )
    assert (settings.port, settings.workers, settings.region) == (3, 5, "eu-west-1")
    assert sources["port"] == "flag --port"
    assert sources["workers"] == "environment HEADRACE_WORKERS"
    assert sources["region"] == f"file {file}"
    assert sources["host"] == "default"


def test_lists_and_booleans_from_environment(tmp_path):
    environment = {"HEADRACE_DOMAIN": "a.example, b.example", "HEADRACE_OPEN_METRICS": "yes"}
    settings = load({"data": str(tmp_path)}, environment=environment).settings
    assert settings.domain == ("a.example", "b.example")
    assert settings.open_metrics is True


def test_named_file_must_exist(tmp_path):
    with pytest.raises(Invalid, match=r"nowhere.toml does not exist"):
        load(config=tmp_path / "nowhere.toml", environment={})
    with pytest.raises(Invalid, match="HEADRACE_CONFIG"):
        load(environment={"HEADRACE_CONFIG": str(tmp_path / "nowhere.toml")})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "'prot', which is no setting"),
        ("port = 70000", r"Bad value 70000 for port \(file .*65535"),
        ('port = "many"', "port is whole number"),
        ('log_level = "loud"', "log_level is one of debug, info, warning, error"),
        ("port = ", "must be TOML"),
        ('tls_cert = "/x"', "belong together"),
        ('origin = ["photos"]', "write NAME=URL"),
        ('tier = ["/x"]', "write DIR:SIZE"),
        ('tier = ["/x:big"]', "is not a size"),
        ('tier = ["/x:1GiB", "/x:2GiB"]', "twice"),
    ],
)
def test_bad_values_say_what_where_and_what_to_do(tmp_path, text, said):
    (tmp_path / "headrace.toml").write_text(text)
    with pytest.raises(Invalid, match=said):
        load({"data": str(tmp_path)}, environment={})


def test_a_bad_secret_is_not_repeated(tmp_path):
    with pytest.raises(Invalid) as raised:
        load({"data": str(tmp_path), "secret_key": ["hush"]}, environment={})
    assert "hush" not in str(raised.value)


def test_children_get_the_same_settings(tmp_path):
    settings = load({"data": str(tmp_path), "tier": ("/a:1GiB",), "origin": ("s3://",)}, environment={}).settings
    assert restore(dump(settings)) == settings
    assert tiers(settings)[0].size_bytes == 1 << 30


def test_every_setting_is_described():
    names = [item.name for item in describe()]
    assert names == list(Settings.__struct_fields__)
    assert all(item.sentence.endswith(".") for item in describe())
    assert all(f"| `{name}` | `HEADRACE_{name.upper()}` |" in page() for name in names)


def test_the_reference_page_is_current():
    shown = Path(__file__).resolve().parents[2] / "docs" / "reference" / "settings.md"
    assert shown.read_text() == page(), "run: python -m headrace.config.docs > docs/reference/settings.md"


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("1KiB", 1024), ("1K", 1024), ("1KB", 1000), ("1.5 GiB", 3 << 29), ("2tb", 2 * 10**12)],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 GiB x", "1e3", "٣"])
def test_what_is_no_size(text):
    with pytest.raises(Invalid):
        parse_bytes(text)


def test_sizes_for_people():
    assert [format_bytes(size) for size in (0, 1023, 1024, 1536, 1 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 TiB"
    ]  # fmt: skip
