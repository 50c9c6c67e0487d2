"""Images of the work, from a store that fails now and then: each is a row, with its bytes or with the reason."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.fetch_settings import FetchSettings
from deployments.jobs import image_reader
from deployments.jobs.inputs import find_work
from deployments.jobs.load import BATCH_BYTES, BATCH_ROWS, LOADED, load
from deployments.jobs.storage import StorageOptions
from pipeline.image import ImageLimits
from tests.deployments.jobs.s3 import Bucket, Fault, Front

HERE = StorageOptions()
LIMITS = ImageLimits()


def rows(batches: Iterable[pa.RecordBatch]) -> dict[str, dict[str, Any]]:
    """By path; each must be there once."""
    found = [row for batch in batches for row in batch.to_pylist()]
    named = {row["path"]: row for row in found}
    assert len(named) == len(found)
    return named


def codes(batches: Iterable[pa.RecordBatch]) -> dict[str, str]:
    """What is wrong with each, by the last part of its path; "" where nothing is."""
    found = rows(batches)
    for row in found.values():
        assert (row["image"] is None) == (row["code"] is not None) == (row["message"] is not None)
        assert row["load_ms"] >= 0
    return {path.rpartition("/")[2]: row["code"] or "" for path, row in found.items()}


def test_more_small_objects_than_a_listing_page_holds(bucket: Bucket) -> None:
    images = {f"{bucket.uri}/{number % 13}/{number:04}é %.jpg": b"%d" % number for number in range(1_050)}
    for uri, data in images.items():
        bucket.put(uri.removeprefix(f"{bucket.uri}/"), data)
    work = find_work(bucket.uri, ["car"], bucket.options())
    batches = list(load(work, bucket.options(), LIMITS))
    assert {path: row["image"] for path, row in rows(batches).items()} == images
    assert {path: row["id"] for path, row in rows(batches).items()} == dict(
        zip(work["path"].to_pylist(), work["id"].to_pylist(), strict=True)
    )
    assert all(batch.schema == LOADED and batch.num_rows <= BATCH_ROWS for batch in batches)
    assert {row["prompt"] for row in rows(batches).values()} == {'["car"]'}


def test_one_request_in_twenty_fails(bucket: Bucket) -> None:
    images = {f"{bucket.uri}/{number:03}.jpg": b"%d" % number for number in range(200)}
    for uri, data in images.items():
        bucket.put(uri.removeprefix(f"{bucket.uri}/"), data)
    kinds: list[Fault] = ["500", "503", "cut", "silence"]
    with Front(bucket.endpoint, lambda n: kinds[n // 20 % 4] if n % 20 == 0 else None) as front:
        options = bucket.options(endpoint_url=front.endpoint, timeout_s=1)
        loaded = rows(load(find_work(bucket.uri, "car", options), options, LIMITS))
        assert front.spoilt == len(front.asked) // 20 >= 20
    assert {path: row["image"] for path, row in loaded.items()} == images
    assert not any(row["code"] for row in loaded.values())


def test_what_cannot_be_had_is_a_row(bucket: Bucket) -> None:
    for key, data in {"good.jpg": b"x" * 10, "large.jpg": b"x" * 11, "a//b.jpg": b"x", "a/../c.jpg": b"x"}.items():
        bucket.put(key, data)
    bucket.put("gone.jpg")
    with Front(bucket.endpoint) as front:
        options = bucket.options(endpoint_url=front.endpoint)
        work = find_work(bucket.uri, "car", options)
        bucket.client().delete_object(Bucket=bucket.name, Key="gone.jpg")
        before = len(front.asked)
        assert codes(load(work, options, ImageLimits(max_bytes=10))) == {
            "good.jpg": "",
            "large.jpg": "image_too_large",
            "b.jpg": "storage_not_understood",
            "c.jpg": "storage_not_understood",
            "gone.jpg": "image_not_found",
        }
        assert not any("large" in path for _, path in front.asked[before:])


def test_a_store_that_is_down_is_a_row_an_image(bucket: Bucket) -> None:
    for number in range(3):
        bucket.put(f"{number}.jpg")
    work = find_work(bucket.uri, "car", bucket.options())
    options = StorageOptions(endpoint_url="http://127.0.0.1:1", attempts=1)
    assert set(codes(load(work, options, LIMITS)).values()) == {"storage_unavailable"}


def test_what_is_named_in_a_manifest(tmp_path: Path, bucket: Bucket) -> None:
    bucket.put("é %20.jpg", b"far")
    (tmp_path / "a.jpg").write_bytes(b"near")
    (tmp_path / "large.jpg").write_bytes(b"x" * 11)
    os.mkfifo(tmp_path / "pipe.jpg")
    named = [
        "a.jpg",
        "large.jpg",
        "none.jpg",
        "pipe.jpg",
        f"{bucket.uri}/é %20.jpg",
        "https://host/u.jpg",
        "x://y/z.jpg",
        None,
    ]
    pq.write_table(pa.table({"path": named}), tmp_path / "list.parquet")
    work = find_work(str(tmp_path / "list.parquet"), "car", bucket.options())
    loaded = list(load(work, bucket.options(), ImageLimits(max_bytes=10)))
    assert codes(loaded) == {
        "a.jpg": "",
        "large.jpg": "image_too_large",
        "none.jpg": "image_not_found",
        "pipe.jpg": "image_not_found",
        "é %20.jpg": "",
        "u.jpg": "url_not_allowed",
        "z.jpg": "storage_not_understood",
        "list.parquet#7": "manifest_row_invalid",
    }
    assert rows(loaded)[f"{bucket.uri}/é %20.jpg"]["image"] == b"far"


def test_urls_are_fetched_as_the_settings_allow(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(
        '{"path": "https://other.invalid/a.jpg"}\n{"path": "http://ours.invalid/b.jpg"}'
    )
    work = find_work(str(tmp_path / "list.jsonl"), "car", HERE)
    fetch = FetchSettings(enabled=True, allowed_hosts=("ours.invalid",))
    assert codes(load(work, HERE, LIMITS, fetch=fetch)) == {"a.jpg": "url_not_allowed", "b.jpg": "invalid_value"}


def test_images_in_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"beside")
    images = [*(b"%d" % number for number in range(50)), b"x" * 11, None, None]
    names = [None] * 52 + ["a.jpg"]
    pq.write_table(pa.table({"bytes": images, "path": names}), tmp_path / "list.parquet", row_group_size=20)
    source = str(tmp_path / "list.parquet")
    work = find_work(source, "car", HERE)
    limits = ImageLimits(max_bytes=10)
    loaded = rows(load(work, HERE, limits))
    assert [loaded[f"{source}#{number}"]["image"] for number in range(50)] == images[:50]
    assert loaded[f"{source}#50"]["code"] == "image_too_large"
    assert loaded[f"{source}#51"]["code"] == "manifest_row_invalid"
    assert loaded[f"{tmp_path}/a.jpg"]["image"] == b"beside"
    some = work.take([3, 17, 18, 39, 45])
    assert [row["image"] for row in rows(load(some, HERE, limits)).values()] == [images[n] for n in (3, 17, 18, 39, 45)]


def test_images_in_jsonl(tmp_path: Path) -> None:
    good = [b"", b"1", b"12", b"123456789", b"1234567890"]
    lines = [
        *({"bytes": base64.b64encode(data).decode()} for data in good),
        {"bytes": "wrong!"},
        {"bytes": 7},
        {"prompt": "x"},
    ]
    lines.append({"bytes": base64.b64encode(b"x" * 11).decode()})
    lines.append({"bytes": base64.b64encode(b"x" * 3_000_000).decode()})
    source = tmp_path / "list.jsonl"
    source.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n" * 1_200_000 + "{\n", encoding="utf-8")
    work = find_work(str(source), "car", HERE)
    loaded = rows(load(work, HERE, ImageLimits(max_bytes=10)))
    assert [loaded[f"{source}#{number}"]["image"] for number in range(5)] == good
    assert [loaded[f"{source}#{number}"]["code"] for number in range(5, 11)] == [
        *["manifest_row_invalid"] * 3,
        *["image_too_large"] * 2,
        "manifest_row_invalid",
    ]


def test_a_damaged_group_costs_its_own_rows_alone(tmp_path: Path) -> None:
    source = tmp_path / "list.parquet"
    images = [os.urandom(1_000) for _ in range(60)]
    pq.write_table(pa.table({"bytes": images}), source, row_group_size=20, compression="zstd")
    start = pq.ParquetFile(source).metadata.row_group(1).column(0).dictionary_page_offset
    work = find_work(str(source), "car", HERE)
    data = bytearray(source.read_bytes())
    data[start : start + 200] = bytes(200)
    source.write_bytes(data)
    loaded = rows(load(work, HERE, LIMITS))
    for number, image in enumerate(images):
        row = loaded[f"{source}#{number}"]
        assert (row["image"], row["code"]) == ((None, "manifest_unreadable") if 20 <= number < 40 else (image, None))
    source.write_bytes(b"PAR1")
    assert set(codes(load(work, HERE, LIMITS)).values()) == {"manifest_unreadable"}
    source.unlink()
    assert set(codes(load(work, HERE, LIMITS)).values()) == {"image_not_found"}


def test_batches_are_small(tmp_path: Path) -> None:
    sizes = [BATCH_BYTES // 2, BATCH_BYTES // 2, 1, BATCH_BYTES + 5, 3, 0]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.jpg").write_bytes(bytes(size))
    batches = list(load(find_work(str(tmp_path), "car", HERE), HERE, LIMITS, threads=1))
    assert [[len(image) for image in batch["image"].to_pylist()] for batch in batches] == [
        sizes[:2],
        sizes[2:3],
        sizes[3:4],
        sizes[4:],
    ]


def test_a_fault_of_ours_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    work = find_work(str(tmp_path), "car", HERE)
    monkeypatch.setattr(image_reader, "place", lambda *args: 1 / 0)
    assert codes(load(work, HERE, LIMITS)) == {"a.jpg": "storage_failed"}
    assert "ZeroDivisionError" in caplog.text
