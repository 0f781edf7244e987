"""Object storage on loopback."""

import socket
import subprocess
import sys
import time
import uuid

import pytest
from pyarrow import fs

from tuner.storage import Place


def pytest_collection_modifyitems(config, items):
    """Machines are made only for who asks: `-m hosts`."""
    asked = "hosts" in config.option.markexpr
    for item in items:
        if "hosts" in item.keywords and not asked:
            item.add_marker(pytest.mark.skip(reason="makes machines: ask with -m hosts"))


@pytest.fixture(scope="session")
def s3_server():
    """Address of an S3 server of moto's, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    server.terminate()
    server.wait(timeout=20)


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A new bucket, as `--storage` takes it; its keys are in the environment."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    fs.S3FileSystem(
        endpoint_override=s3_server, scheme="http", region="us-east-1", allow_bucket_creation=True
    ).create_dir(name)
    return f"s3://{name}/isoflop?endpoint_override={s3_server}&scheme=http&region=us-east-1"


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path):
    """An empty folder, on disk and in a bucket."""
    if request.param == "disk":
        return Place.of(tmp_path / "storage")
    return Place.of(request.getfixturevalue("bucket"))
