"""One node for all clients, and the buckets they use: in the embedded store by both addressing styles, and remote.

The folders beside this file are groups: `basic` needs only what `make test` installs; each other one has an
environment of its own that `make test-clients` makes, and is collected only there (HEADRACE_CLIENTS names it).
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.testing.node import DOMAIN, Node
from headrace.testing.servers import seaweedfs_s3

pytest.register_assert_rewrite("client_steps")

HERE = Path(__file__).parent
REMOTE = "faraway"
"""The bucket whose origin is another S3 server."""
HOSTS = os.environ.get("HEADRACE_HOSTS")
"""A file that is this process's own /etc/hosts, so that bucket names under *.localhost can be given addresses."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the groups whose packages are not in this environment."""
    group = collection_path if collection_path.is_dir() else collection_path.parent
    if group.parent == HERE and group.name not in {"basic", "__pycache__", os.environ.get("HEADRACE_CLIENTS")}:
        return True
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket as a client is to reach it: keys go under `prefix`, which no other test uses."""

    node: Node
    bucket: str
    prefix: str
    virtual: bool
    certificate: Path | None = None

    @property
    def endpoint(self) -> str:
        """The URL without the bucket."""
        return self.node.domain_endpoint if self.virtual else self.node.endpoint

    @property
    def remote(self) -> bool:
        """Whether the bucket's objects lie on another S3 server."""
        return self.bucket == REMOTE

    @property
    def host(self) -> str:
        """Host and port without the bucket."""
        return self.endpoint.partition("://")[2]

    @property
    def bucket_endpoint(self) -> str:
        """The URL that contains the bucket already, in this place's addressing style."""
        if self.virtual:
            return f"{self.endpoint.partition('://')[0]}://{self.bucket}.{self.host}"
        return f"{self.endpoint}/{self.bucket}"

    @property
    def access_key(self) -> str:
        """The admin's access key."""
        return self.node.access_key

    @property
    def secret_key(self) -> str:
        """Its secret."""
        return self.node.secret_key

    def boto3(self) -> Any:
        """A path-style boto3 client: the second opinion on what another client did."""
        return self.node.client(verify=str(self.certificate) if self.certificate else True)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with an embedded store and one bucket of a SeaweedFS behind it."""
    folder = tmp_path_factory.mktemp("weed")
    with seaweedfs_s3(folder) as weed:
        _create_at(weed.endpoint, weed.access_key, weed.secret_key, REMOTE)
        with Node(tmp_path_factory.mktemp("node"), origins={REMOTE: weed.url(REMOTE)}) as running:
            yield running


def _create_at(endpoint: str, access_key: str, secret_key: str, bucket: str) -> None:
    """Make a bucket on another server."""
    import boto3

    s3 = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=access_key, aws_secret_access_key=secret_key,
        region_name="us-east-1",
    )  # fmt: skip
    s3.create_bucket(Bucket=bucket)
    s3.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate and its key; Python's ssl takes no wildcard right below a top-level name."""
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "cert.pem", folder / "key.pem"
    names = "IP:127.0.0.1,DNS:localhost,DNS:*.localhost,DNS:boto3-tls-virtual.localhost"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", f"subjectAltName={names}",
        "-addext", "basicConstraints=critical,CA:TRUE", "-out", str(chain), "-keyout", str(key),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


@pytest.fixture(scope="session")
def tls_node(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Node]:
    """A node that speaks HTTPS."""
    chain, key = certificate
    with Node(tmp_path_factory.mktemp("tls_node"), "--tls-cert", str(chain), "--tls-key", str(key)) as running:
        yield running


@pytest.fixture(params=["path", "virtual"])
def place(request: pytest.FixtureRequest) -> Place:
    """A bucket for this test, by both addressing styles; a class asks for others by parametrizing `place`.

    Places: path, virtual (embedded store), remote (path style, an S3 origin), tls, tls-virtual.
    """
    kind: str = request.param
    test = request.node
    family = test.cls.__name__.removeprefix("Test").lower() if test.cls else test.name.partition("[")[0]
    secure = kind.startswith("tls")
    running: Node = request.getfixturevalue("tls_node" if secure else "node")
    certificate = request.getfixturevalue("certificate")[0] if secure else None
    prefix = f"{family}/{test.name.partition('[')[0]}/"
    if kind == "remote":
        return Place(running, REMOTE, prefix, virtual=False)
    bucket = f"{family}-{kind}".replace("_", "-")[:60]
    made = Place(running, bucket, prefix, virtual=kind.endswith("virtual"), certificate=certificate)
    s3 = made.boto3()
    if bucket not in {each["Name"] for each in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=bucket)
    s3.close()
    if made.virtual:
        _give_address(f"{bucket}.{DOMAIN}", native=getattr(test.cls, "native", True))
    return made


_system_getaddrinfo = socket.getaddrinfo


def _give_address(name: str, *, native: bool) -> None:
    """Make `name` mean this machine, for clients that ask the system (native) and not only Python's socket module.

    Few systems resolve *.localhost by themselves. Skips the test where nothing can be done about it.
    """
    if HOSTS is not None:
        path = Path(HOSTS)
        if name not in path.read_text().split():
            with path.open("a") as hosts:
                hosts.write(f"127.0.0.1 {name}\n")
    if native:
        try:
            _system_getaddrinfo(name, 80)
        except socket.gaierror:
            pytest.skip("this system does not resolve *.localhost; `make test-clients` runs where it does")


@pytest.fixture(autouse=True)
def local_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Python's socket module resolve *.localhost, as browsers and curl do."""

    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name.endswith(f".{DOMAIN}"):
            host = "127.0.0.1"
        return _system_getaddrinfo(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
