"""Files and objects by URI: raw keys, long listings, and a clear error at once for what does not work."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from deployments.jobs.storage import Entry, Place, StorageError, StorageOptions, place
from tests.deployments.jobs.s3 import Bucket, Fault, Front, checked_credentials

ODD = [
    "a b/c d.jpg",
    "é ü/猫.jpg",
    "100%/p%20q%2Fr.jpg",
    "h#x?y=1&z+w.jpg",
    "star*[x].jpg",
    "back\\slash.jpg",
    "s3:colon;semi.jpg",
    "😀~'\"<>.jpg",
]
UNADDRESSABLE = ["a//b.jpg", "/lead.jpg", "a/./b.jpg", "a/../b.jpg", "a/b.jpg/"]


@contextmanager
def refused(code: str, within_s: float | None = None) -> Iterator[None]:
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        yield
    assert caught.value.code == code
    assert "text of the store" not in str(caught.value)
    if within_s is not None:
        assert time.monotonic() - started < within_s


@pytest.mark.parametrize("key", ODD)
def test_a_key_is_raw(bucket: Bucket, key: str) -> None:
    here = place(f"{bucket.uri}/{key}", bucket.options())
    here.write(b"ours")
    s3 = bucket.client()
    assert s3.get_object(Bucket=bucket.name, Key=key)["Body"].read() == b"ours"
    s3.put_object(Bucket=bucket.name, Key=key, Body=b"theirs")
    assert here.read() == b"theirs"
    assert here.exists()
    assert list(place(bucket.uri, bucket.options()).files()) == [Entry(here.uri, 6)]
    with here.open_input() as file:
        file.seek(3)
        assert file.read() == b"irs"
    here.delete()
    here.delete()
    assert not here.exists()
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket.name, Prefix=key)


@pytest.mark.parametrize("key", UNADDRESSABLE)
def test_a_key_that_the_client_would_change_is_refused(bucket: Bucket, key: str) -> None:
    bucket.put("b.jpg", b"another object, at which a/../b.jpg would arrive")
    bucket.put("a/b.jpg", b"another one")
    with refused("storage_not_understood"):
        Place(f"{bucket.uri}/{key}", bucket.options()).read()


def test_such_keys_are_listed_all_the_same(bucket: Bucket) -> None:
    for key in UNADDRESSABLE[:-1]:
        bucket.put(key)
    found = [entry.uri for entry in place(bucket.uri, bucket.options()).files()]
    assert found == sorted(f"{bucket.uri}/{key}" for key in UNADDRESSABLE[:-1])


def test_a_listing_has_all_pages(bucket: Bucket) -> None:
    keys = [f"many/{number:04}é.jpg" for number in range(2_500)]
    for number, key in enumerate(keys):
        bucket.put(key, b"x" * (number % 7))
    bucket.put("many.jpg")
    bucket.put("many/folder/")  # as consoles make folders
    bucket.put("manyfold/x.jpg")
    spoilt: dict[int, Fault] = {2: "500", 4: "503", 5: "cut"}
    with Front(bucket.endpoint, spoilt.get) as front:
        options = bucket.options(endpoint_url=front.endpoint)
        found = list(place(f"{bucket.uri}/many/", options).files())
        assert found == [Entry(f"{bucket.uri}/{key}", number % 7) for number, key in enumerate(keys)]
        assert len(front.asked) == 3 + 3


@pytest.mark.parametrize("fault", ["500", "503", "cut", "silence"])
def test_a_request_is_tried_as_often_as_said(bucket: Bucket, fault: Fault) -> None:
    bucket.put("a.jpg", b"data")
    with Front(bucket.endpoint, lambda number: fault if number <= 2 else None) as front:
        options = bucket.options(endpoint_url=front.endpoint, attempts=2, timeout_s=1)
        with refused("storage_unavailable", within_s=8):
            place(f"{bucket.uri}/a.jpg", options).read()
        assert len(front.asked) == 2
        assert place(f"{bucket.uri}/a.jpg", options).read() == b"data"


def test_writing_is_tried_again(bucket: Bucket) -> None:
    spoilt: dict[int, Fault] = {1: "503", 2: "cut"}
    with Front(bucket.endpoint, spoilt.get) as front:
        place(f"{bucket.uri}/new", bucket.options(endpoint_url=front.endpoint)).write(b"data" * 2**20)
        assert [method for method, _ in front.asked] == ["PUT"] * 3
    assert bucket.client().get_object(Bucket=bucket.name, Key="new")["Body"].read() == b"data" * 2**20


def test_what_is_too_large_is_not_fetched(bucket: Bucket) -> None:
    bucket.put("a.jpg", b"x" * 100)
    with Front(bucket.endpoint) as front:
        here = place(f"{bucket.uri}/a.jpg", bucket.options(endpoint_url=front.endpoint))
        assert len(here.read(100)) == 100
        before = len(front.asked)
        with refused("image_too_large"):
            here.read(99)
        assert [method for method, _ in front.asked[before:]] == ["HEAD"]


def test_wrong_credentials_are_told_at_once(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("open.jpg", b"data")
    bucket.put("shut.jpg", b"data")
    rights = [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Deny", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket.name}/shut.jpg"},
    ]
    folder = place(bucket.uri, bucket.options())
    with checked_credentials(rights) as user:
        with refused("storage_credentials", within_s=5):
            folder.check()
        with refused("storage_credentials", within_s=5):
            list(folder.files())
        for name, value in user.items():
            monkeypatch.setenv(name, value)
        folder.check()
        assert folder.child("open.jpg").read() == b"data"
        with refused("image_forbidden"):
            folder.child("shut.jpg").read()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with refused("storage_credentials", within_s=5):
            folder.check()


def test_who_may_read_one_object_alone_may_read_it(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("list.parquet", b"data")
    rights = [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket.name}/list.parquet"}]
    with checked_credentials(rights) as user:
        for name, value in user.items():
            monkeypatch.setenv(name, value)
        here = place(f"{bucket.uri}/list.parquet", bucket.options())
        here.check()
        assert here.read() == b"data"
        with refused("storage_credentials", within_s=5):
            place(bucket.uri, bucket.options()).check()


def test_profiles_and_the_environment_name_credentials_and_endpoints(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = place(f"{bucket.uri}/a.jpg")
    bucket.put("a.jpg", b"data")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    assert here.read() == b"data"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.endpoint + "/")
    assert here.read() == b"data"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    with checked_credentials([{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]) as user:
        secrets = "\n".join(f"{name.lower()} = {value}" for name, value in user.items())
        (tmp_path / "credentials").write_text(f"[labels]\n{secrets}\n")
        (tmp_path / "config").write_text(f"[profile labels]\nendpoint_url = {bucket.endpoint}\nregion = us-east-1\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "labels")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert here.read() == b"data"


def test_a_missing_bucket_and_a_missing_server_are_told_at_once(bucket: Bucket) -> None:
    with refused("image_not_found", within_s=5):
        place("s3://no-such-bucket/photos", bucket.options()).check()
    with refused("image_not_found", within_s=5):
        place("s3://no-such-bucket/a.jpg", bucket.options()).write(b"data")
    with refused("storage_unavailable", within_s=5):
        place("s3://bucket/photos", StorageOptions(endpoint_url="http://127.0.0.1:1")).check()
    with Front(bucket.endpoint, lambda number: "silence") as front:
        options = bucket.options(endpoint_url=front.endpoint, timeout_s=1)
        with refused("storage_unavailable", within_s=8):
            place(bucket.uri, options).check()
    place(bucket.uri, bucket.options()).check()


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://bucket/a b%20#?.jpg", "s3://bucket/a b%20#?.jpg"),
        ("S3://bucket/folder/", "s3://bucket/folder"),
        ("s3://bucket/", "s3://bucket"),
        ("gs://bucket/é.jpg", "gs://bucket/é.jpg"),
        ("abfs://container@account.dfs.core.windows.net/a b", "abfs://container@account.dfs.core.windows.net/a b"),
        ("abfss://container/a", "abfss://container/a"),
        ("file:///data/a.jpg", "/data/a.jpg"),
        ("/data/x/../a.jpg", "/data/a.jpg"),
    ],
)
def test_uris(text: str, uri: str) -> None:
    here = place(text)
    assert here.uri == uri
    assert pickle.loads(pickle.dumps(here)) == here
    assert here.child("b/c d").uri == f"{uri}/b/c d"


@pytest.mark.parametrize("text", ["http://host/a.jpg", "ftp://host/a", "s3://", "s3:///key", "gs://", ""])
def test_what_is_no_place(text: str) -> None:
    with refused("storage_not_understood"):
        place(text)


def test_an_endpoint_is_a_url() -> None:
    for wrong in ("localhost:9000", "ftp://host", "http://"):
        with pytest.raises(ValueError, match="must be http"):
            StorageOptions(endpoint_url=wrong)


def test_azure_wants_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with refused("storage_not_understood"):
        place("abfs://container/a.jpg").read()


def test_local_files(tmp_path: Path) -> None:
    folder = place(tmp_path / "new")
    assert list(folder.files()) == []
    for name in ("b.txt", "a/é %20#.jpg", ".hidden"):
        folder.child(name).write(name.encode())
    assert [(entry.uri, entry.size) for entry in folder.files()] == [
        (f"{tmp_path}/new/{name}", len(name.encode())) for name in (".hidden", "a/é %20#.jpg", "b.txt")
    ]
    assert folder.child("b.txt").read(5) == b"b.txt"
    assert [folder.kind(), folder.child("b.txt").kind(), folder.child("none").kind()] == ["folder", "file", None]
    with refused("image_too_large"):
        folder.child("b.txt").read(4)
    with folder.child("b.txt").open_input() as file:
        assert file.read() == b"b.txt"
    folder.child("b.txt").delete()
    folder.child("b.txt").delete()
    assert not folder.child("b.txt").exists()
    folder.check()


def test_a_file_that_goes_while_its_folder_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    scandir = os.scandir

    def one_goes(path: str) -> AbstractContextManager[list[os.DirEntry[str]]]:
        with scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        (tmp_path / "a").unlink()
        return nullcontext(entries)

    monkeypatch.setattr(os, "scandir", one_goes)
    assert [entry.uri for entry in place(tmp_path).files()] == [f"{tmp_path}/b", f"{tmp_path}/c"]


def test_a_local_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = place(tmp_path / "a")
    here.write(b"old")
    for step in ("fsync", "replace"):
        with monkeypatch.context() as broken:
            broken.setattr(os, step, _full)
            with refused("storage_failed"):
                here.write(b"new")
        assert os.listdir(tmp_path) == ["a"]
        assert here.read() == b"old"


def _full(*args: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_is_no_local_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("none", "pipe", "file/below", "loop", "nul\0", "n" * 300, "."):
        for method in ("read", "open_input"):
            with refused("image_not_found"):
                getattr(Place(f"{tmp_path}/{name}"), method)()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_local_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch(mode=0)
    with refused("image_forbidden"):
        place(tmp_path / "a").read()
