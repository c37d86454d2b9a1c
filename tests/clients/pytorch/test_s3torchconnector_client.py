"""s3torchconnector: Mountpoint's CRT client under PyTorch data sets and checkpoints, and that client by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from client_steps import PART_BYTES, SMALL, Client, ClientSteps
from s3torchconnector import S3Checkpoint, S3ClientConfig, S3IterableDataset, S3MapDataset
from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

pytestmark = pytest.mark.clients


@pytest.fixture(autouse=True)
def credentials(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CRT reads them from the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", place.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", place.secret_key)


class Mountpoint:
    """The adapter. It uploads every object in parts."""

    def __init__(self, client: MountpointS3Client, bucket: str) -> None:
        self.client = client
        self.bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        stream = self.client.put_object(self.bucket, key)
        stream.write(data)
        stream.close()

    put_large = put

    def get(self, key: str) -> bytes:
        return b"".join(self.client.get_object(self.bucket, key))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        return b"".join(self.client.get_object(self.bucket, key, start=start, end=stop))

    def list(self, prefix: str) -> list[str]:
        return [info.key for page in self.client.list_objects(self.bucket, prefix) for info in page.object_info]

    def delete(self, key: str) -> None:
        self.client.delete_object(self.bucket, key)


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestMountpoint(ClientSteps):
    @pytest.fixture
    def client(self, place: Any) -> Client:
        made = MountpointS3Client(
            region="us-east-1",
            user_agent_prefix="",
            throughput_target_gbps=10.0,
            part_size=PART_BYTES,
            unsigned=False,
            endpoint=place.endpoint,
            force_path_style=not place.virtual,
        )
        return Mountpoint(made, place.bucket)


@pytest.mark.parametrize("place", ["path", "virtual", "remote"], indirect=True)
class TestTorchConnector:
    @pytest.fixture
    def options(self, place: Any) -> dict[str, Any]:
        config = S3ClientConfig(force_path_style=not place.virtual, part_size=PART_BYTES)
        return {"region": "us-east-1", "endpoint": place.endpoint, "s3client_config": config}

    @pytest.fixture
    def url(self, place: Any) -> str:
        s3 = place.boto3()
        for number in range(12):
            s3.put_object(Bucket=place.bucket, Key=f"{place.prefix}{number:02}", Body=SMALL * (number + 1))
        s3.close()
        return f"s3://{place.bucket}/{place.prefix}"

    def test_map_and_iterable_datasets(self, url: str, options: dict[str, Any]) -> None:
        mapped = S3MapDataset.from_prefix(url, transform=lambda item: item.read(), **options)
        assert [mapped[number] for number in range(len(mapped))] == [SMALL * (number + 1) for number in range(12)]
        streamed = S3IterableDataset.from_prefix(url, **options)
        assert [item.read() for item in streamed] == [SMALL * (number + 1) for number in range(12)]
        some = mapped._get_object(3)
        some.seek(5)
        assert some.read(10) == (SMALL * 4)[5:15]

    def test_data_loader_with_workers(self, url: str, options: dict[str, Any]) -> None:
        streamed = S3IterableDataset.from_prefix(url, enable_sharding=True, transform=_length, **options)
        loader = torch.utils.data.DataLoader(streamed, batch_size=3, num_workers=2)
        lengths = sorted(int(length) for batch in loader for length in batch)
        assert lengths == [len(SMALL) * (number + 1) for number in range(12)]

    def test_checkpoint(self, url: str, options: dict[str, Any]) -> None:
        state = {"weights": torch.arange(3_000_000), "step": 7}
        checkpoint = S3Checkpoint(**options)
        with checkpoint.writer(f"{url}checkpoint.pt") as writer:
            torch.save(state, writer)
        with checkpoint.reader(f"{url}checkpoint.pt") as reader:
            found = torch.load(reader)
        assert found["step"] == 7
        assert torch.equal(found["weights"], state["weights"])


def _length(item: Any) -> int:
    return len(item.read())
