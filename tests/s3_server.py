"""An S3 of the tests' own (moto's server in a thread), and real pairs packed into shards."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import s3fs
from moto.server import ThreadedMotoServer

BUCKET = "pictures"

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


class _Requests(logging.Handler):
    """Keeps what the server says of each request."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@dataclass
class S3:
    """A server that runs.

    Attributes:
        server: of moto.
        environment: what clients need besides, the address included.
    """

    server: ThreadedMotoServer
    environment: dict[str, str]
    seen: _Requests = field(default_factory=_Requests)

    @property
    def client(self):
        """For putting and deleting."""
        return boto3.client("s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"])

    def put(self, folder: Path, prefix: str) -> str:
        """Uploads a folder's shards; gives their pattern."""
        files = sorted(folder.glob("*.tar"))
        for file in files:
            self.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{file.name}", Body=file.read_bytes())
        return f"s3://{BUCKET}/{prefix}/s-{{000..{len(files) - 1:03d}}}.tar"

    def requests(self) -> list[tuple[str, str]]:
        """(GET or HEAD, key) since this was last asked."""
        taken, self.seen.lines = self.seen.lines, []
        found = [re.search(rf"(GET|HEAD) /{BUCKET}/([^? ]+)", line) for line in taken]  # between colours of a terminal
        return [(one[1], one[2]) for one in found if one]


@contextmanager
def serving(patch) -> Iterator[S3]:
    """A server with an empty bucket, to which the variables of this process point inside.

    Args:
        patch: a MonkeyPatch.
    """
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    found = S3(server, {**ENVIRONMENT, "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())})
    for name, value in found.environment.items():
        patch.setenv(name, value)
    log = logging.getLogger("werkzeug")
    before = log.level
    log.addHandler(found.seen)
    log.setLevel(logging.INFO)
    try:
        found.client.create_bucket(Bucket=BUCKET)
        yield found
    finally:
        log.setLevel(before)
        log.removeHandler(found.seen)
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


def pack(data: Path, folder: Path, rows: int, a_shard: int) -> Path:
    """Packs rows of a data set, spread over it, into shards s-000.tar, ...; splits are those of `tiny_runs.SPLITS`."""
    folder.mkdir(parents=True)
    with (data / "pairs.csv").open(encoding="utf-8", newline="") as file:
        every = list(csv.DictReader(file))
    chosen = every[:: len(every) // rows][:rows]
    for shard in range(0, rows, a_shard):
        with tarfile.open(folder / f"s-{shard // a_shard:03d}.tar", "w") as archive:
            for number, row in enumerate(chosen[shard : shard + a_shard], shard):
                image = data / row["image"]
                split = ("train", "train", "train", "val")[number % 4]
                fields = {"caption": row["caption"], "label": row.get("label", ""), "split": split, "row": number}
                add(archive, f"{number:04d}{image.suffix}", image.read_bytes())
                add(archive, f"{number:04d}.json", json.dumps(fields).encode())
    return folder


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Appends a member."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
