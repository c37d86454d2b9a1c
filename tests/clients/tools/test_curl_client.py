"""curl --aws-sigv4: the client of shell scripts; it resolves *.localhost by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from client_command import Command
from client_steps import SMALL

pytestmark = pytest.mark.clients


class TestCurl:
    native = False

    @pytest.fixture
    def curl(self, place: Any, tmp_path: Path) -> Command:
        sign = ("--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{place.access_key}:{place.secret_key}")
        return Command(tmp_path, "curl", "--silent", "--show-error", "--fail", *sign)

    def test_put_get_range_list_delete(self, curl: Command, place: Any) -> None:
        url = f"{place.bucket_endpoint}/{place.prefix}one"
        unsigned = ("--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD")
        curl(*unsigned, "--upload-file", curl.file(SMALL), url)
        assert curl(*unsigned, url) == SMALL
        assert curl(*unsigned, "--range", "2-6", url) == SMALL[2:7]
        assert f"<Key>{place.prefix}one</Key>".encode() in curl(*unsigned, f"{place.bucket_endpoint}/?list-type=2")
        curl(*unsigned, "--request", "DELETE", url)
        with pytest.raises(AssertionError, match="404"):
            curl(*unsigned, url)
