"""The commands beside `up`: what they print, what they refuse, and that no error is a traceback."""

from __future__ import annotations

import json

import pytest
from node import command


def test_help_teaches_with_examples():
    for noun in ("", "up", "key", "key create", "bucket", "bucket add", "config", "doctor"):
        shown = command(*noun.split(), "--help").stdout
        assert "headrace " in shown
        assert "Usage" in shown
    assert "headrace key create --name alice" in command("--help").stdout


def test_keys_are_made_listed_and_revoked_without_a_node(tmp_path):
    data = tmp_path / "data"
    made = json.loads(
        command(
            "key", "create", "--name", "ci", "--allow", "a-*:read,list", "--allow", "b/x*:write", "--json", data=data
        ).stdout
    )
    assert set(made) >= {"access_key", "secret_key", "user_id"}
    listed = command("key", "list", "--json", data=data).stdout
    assert made["secret_key"] not in listed
    assert json.loads(listed)[0]["allow"] == ["a-*:read,list", "b/x*:write"]
    command("key", "revoke", made["access_key"], data=data)
    assert json.loads(command("key", "list", "--json", data=data).stdout) == []


def test_a_made_key_can_be_pasted(tmp_path):
    lines = command("key", "create", "--admin", data=tmp_path / "data").stdout.splitlines()
    assert [line.split("=")[0] for line in lines] == ["export AWS_ACCESS_KEY_ID", "export AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("key", "revoke", "HRNOBODY"), 4, "no access key HRNOBODY"),
        (("key", "create", "--allow", "x:fly"), 2, "Bad rule"),
        (("key", "create", "--admin", "--allow", "x:read"), 2, "leave --allow out"),
        (("key", "create", "--access-key", "abc"), 2, "belong together"),
        (("bucket", "add", "NO", "s3://x"), 2, "Bad bucket name"),
        (("bucket", "add", "photos", "ftp://x"), 2, "no origin URL"),
        (("bucket", "add", "photos", "s3://x", "--freshness", "immutable"), 2, "PREFIX=RULE"),
        (("bucket", "remove", "photos"), 4, "not bound"),
        (("up", "--port", "-1"), 2, "port"),
        (("up", "--origin", "photos"), 2, "NAME=URL"),
        (("up", "--host", "no.such.host.invalid", "--port", "0"), 2, "does not resolve"),
        (("up", "--tier", "/x:1KiB:huge"), 2, "is not a size"),
    ],
)
def test_mistakes_get_one_clear_line_and_a_status(tmp_path, arguments, status, said):
    data = tmp_path / "data"
    command("key", "create", data=data)
    failed = command(*arguments, data=data, check=False)
    assert failed.returncode == status, failed.stderr
    assert said in failed.stderr
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1


def test_a_missing_node_is_said(tmp_path):
    failed = command("key", "list", data=tmp_path / "none", check=False)
    assert failed.returncode == 4
    assert "headrace up" in failed.stderr
    assert not (tmp_path / "none").exists()


def test_a_directory_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    failed = command("key", "create", data=tmp_path / "file" / "data", check=False)
    assert failed.returncode == 8
    assert failed.stderr.count("\n") == 1


def test_a_data_path_too_long_for_a_socket_is_said(tmp_path):
    failed = command("up", data=tmp_path / ("x" * 100), check=False)
    assert failed.returncode == 2
    assert "shorter" in failed.stderr


def test_config_show_names_every_source(tmp_path):
    (tmp_path / "headrace.toml").write_text('region = "eu-west-1"\n')
    shown = command(
        "config",
        "show",
        data=tmp_path,
        HEADRACE_PORT="9009",
        HEADRACE_ACCESS_KEY="abc",
        HEADRACE_SECRET_KEY="hush-hush",
    )
    rows = {line.split()[0]: line for line in shown.stdout.splitlines()}
    assert rows["port"].endswith("environment HEADRACE_PORT")
    assert rows["region"].endswith(f"file {tmp_path}/headrace.toml")
    assert rows["data"].endswith("flag --data")
    assert rows["host"].endswith("default")
    assert "hush-hush" not in shown.stdout
    values = json.loads(command("config", "show", "--json", data=tmp_path).stdout)
    assert values["region"]["value"] == "eu-west-1"
    assert values["region"]["meaning"]


def test_version():
    assert command("version").stdout.startswith("headrace 0.")
    assert set(json.loads(command("version", "--json").stdout)) == {"headrace", "python", "kernel"}


def test_doctor_reports_and_its_status_follows(tmp_path):
    data = tmp_path / "data"
    (tmp_path / "folder").mkdir()
    command("bucket", "add", "folder", f"file://{tmp_path}/folder", data=data)
    report = json.loads(command("doctor", "--json", data=data, check=False, HEADRACE_PORT="0").stdout)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert {"kernel", "page cache probe", "sendfile", "open files", "clock", "port", "origin folder"} <= set(states)
    assert set(states.values()) <= {"ok", "warn", "fail"}
    assert states["origin folder"] == "ok"
    assert all(check["advice"] for check in report["checks"] if check["state"] != "ok")
    command("bucket", "add", "gone", f"file://{tmp_path}/gone", data=data)
    (tmp_path / "gone").write_text("a file")
    failed = command("doctor", data=data, check=False, HEADRACE_PORT="0")
    assert failed.returncode == 1
    assert "fail  origin gone" in failed.stdout
    assert "      -> " in failed.stdout
