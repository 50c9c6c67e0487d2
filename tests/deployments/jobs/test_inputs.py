"""Which images a job's source means: the same names on a disk as in a bucket, and manifests with words of their own."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.cli.inputs import find_pictures
from deployments.jobs.inputs import WORK, InputError, find_work, row_id
from deployments.jobs.load import load
from deployments.jobs.storage import StorageOptions, place
from pipeline.image import ImageLimits
from tests.deployments.jobs.s3 import Bucket, Front, checked_credentials

HERE = StorageOptions()
RIGHTS = [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]
TREE = [
    "a.jpg",
    "b c.PNG",
    "notes.txt",
    ".hidden.jpg",
    "2024/é%20.webp",
    "2024/deep/er/x[1].jpeg",
    "2024/deep/y.jpg",
    ".cache/z.jpg",
    "2025/#1?.jpe",
    "2025/jpg",
]


def paths(work: pa.Table) -> list[str]:
    found: list[str] = work["path"].to_pylist()
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in TREE:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(b"x")
    return tmp_path / "tree"


def test_a_folder_is_read_all_the_way_down_as_predict_does(tree: Path) -> None:
    work = find_work(str(tree), "car", HERE)
    assert work.schema == WORK
    assert paths(work) == [str(picture.path) for picture in find_pictures([str(tree)], recursive=True)]
    assert len(work) == 6


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/*",
        "/*.jpg",
        "/**",
        "/**/*.jpg",
        "/2024/**",
        "/20??/*",
        "/202[5-9]/**",
        "/.*.jpg",
        "/2024/*/*.jpg",
        "/**/**",
    ],
)
def test_a_bucket_has_the_names_of_a_folder(tree: Path, bucket: Bucket, pattern: str) -> None:
    for name in TREE:
        bucket.put(f"in/tree/{name}", b"x")
    bucket.put("in/tree.jpg", b"x")
    bucket.put("in/tree/2024/folder.jpg/", b"")
    local = paths(find_work(f"{tree}{pattern}", "car", HERE))
    there = find_work(f"{bucket.uri}/in/tree{pattern}", "car", bucket.options())
    below = [path.removeprefix(f"{bucket.uri}/in/tree/") for path in paths(there)]
    assert sorted(below) == sorted(path.removeprefix(f"{tree}/") for path in local)
    assert len(below) == len(set(below)) > 0
    assert below == sorted(below)
    assert set(there["size"].to_pylist()) == {1}


def test_names_that_are_patterns_too(bucket: Bucket) -> None:
    bucket.put("x[1].jpg")
    bucket.put("set[2]/a.jpg")
    options = bucket.options()
    assert paths(find_work(f"{bucket.uri}/x[1].jpg", "car", options)) == [f"{bucket.uri}/x[1].jpg"]
    assert paths(find_work(f"{bucket.uri}/set[2]", "car", options)) == [f"{bucket.uri}/set[2]/a.jpg"]


def test_keys_that_cannot_be_read_are_work_all_the_same(bucket: Bucket) -> None:
    for key in ("a//b.jpg", "a/../b.jpg", "c.jpg"):
        bucket.put(key)
    work = find_work(bucket.uri, "car", bucket.options())
    assert paths(work) == [f"{bucket.uri}/{key}" for key in ("a/../b.jpg", "a//b.jpg", "c.jpg")]


def test_outputs_are_no_inputs(tree: Path, bucket: Bucket) -> None:
    apart = place(tree / "2024")
    assert not any("/2024/" in path for path in paths(find_work(str(tree), "car", HERE, apart=apart)))
    assert not any("/2024/" in path for path in paths(find_work(f"{tree}/**/*.jpg", "car", HERE, apart=apart)))
    for key in ("a.jpg", "out/a.overlay.png", "outer.jpg"):
        bucket.put(key)
    work = find_work(bucket.uri, "car", bucket.options(), apart=place(f"{bucket.uri}/out"))
    assert paths(work) == [f"{bucket.uri}/a.jpg", f"{bucket.uri}/outer.jpg"]


def test_a_name_that_is_no_utf8_is_work(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    assert paths(find_work(str(tmp_path), "car", HERE)) == [f"{tmp_path}/\\udcff.jpg"]


def test_ids_are_of_path_prompt_and_occurrence_alone(tree: Path, bucket: Bucket) -> None:
    whole = find_work(str(tree), ["car", "é"], HERE)
    assert whole["id"].to_pylist() == [row_id(path, '["car","é"]', 0) for path in paths(whole)]
    first = find_work(str(tree), ["car", "é"], StorageOptions(attempts=2), limit=2)
    assert first.equals(whole.slice(0, 2))
    assert (
        len({row_id(*key) for key in [("a", "b", 0), ("a", "b", 1), ("ab", "", 0), ("", "ab", 0), ("b", "a", 0)]}) == 5
    )
    assert row_id("s3://b/é", '"car"', 0) == "31bc7b74fb38164586fa62e656175f54"  # sha256sum's


def parquet(folder: Path, columns: dict[str, Any], name: str = "list.parquet", group: int = 2) -> str:
    pq.write_table(pa.table(columns), folder / name, row_group_size=group)
    return str(folder / name)


def test_a_parquet_manifest(tree: Path) -> None:
    source = parquet(
        tree,
        {
            "path": ["a.jpg", "2024/../b c.PNG", "/data/x.jpg", "s3://bucket/a%20b.jpg", "https://host/a.jpg", None],
            "prompt": [["car", "wheel"], None, [], ["é"], ["car"], ["car"]],
            "other": range(6),
        },
    )
    work = find_work(source, "dog, cat", HERE)
    assert paths(work) == [
        f"{tree}/a.jpg",
        f"{tree}/b c.PNG",
        "/data/x.jpg",
        "s3://bucket/a%20b.jpg",
        "https://host/a.jpg",
        f"{source}#5",
    ]
    assert work["prompt"].to_pylist() == ['["car","wheel"]', '"dog, cat"', '"dog, cat"', '["é"]', '["car"]', '["car"]']
    assert work["container"].to_pylist() == [None] * 5 + [source]
    assert (work["group"][5].as_py(), work["row"][5].as_py()) == (2, 1)


def not_utf8(*values: bytes) -> pa.Array:
    """Text as some writers leave it."""
    ends = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(values), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))])


def test_text_that_is_no_utf8_costs_its_own_row(tree: Path) -> None:
    whole = pa.array(["a.jpg", "b.jpg", "c.jpg"])
    bad = not_utf8(b"x", b"caf\xe9", b"z")
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), bad)
    beside = {"path": bad, "bytes": pa.array([b"1", b"2", b"3"])}
    for columns in ({"path": bad}, {"path": whole, "prompt": bad}, {"path": whole, "prompt": lists}, beside):
        work = find_work(parquet(tree, columns), "own", HERE)
        codes = {row["path"]: row["code"] for batch in load(work, HERE, ImageLimits()) for row in batch.to_pylist()}
        assert [codes[path] == "manifest_row_invalid" for path in paths(work)] == [False, True, False]


def test_columns_of_views(tree: Path) -> None:
    text = pa.array(["a.jpg", None, "a name of more than twelve letters.jpg"], pa.string_view())
    data = pa.array([None, b"2", b"an image of more than twelve bytes"], pa.binary_view())
    prompts = pa.array([["a"], None, ["b", "c"]], pa.list_(pa.string_view()))
    source = parquet(tree, {"path": text, "bytes": data, "prompt": prompts})
    work = find_work(source, "own", HERE)
    assert work["prompt"].to_pylist() == ['["a"]', '"own"', '["b","c"]']
    images = {row["path"]: row["image"] for batch in load(work, HERE, ImageLimits()) for row in batch.to_pylist()}
    assert images == {
        f"{tree}/a.jpg": b"x",
        f"{source}#1": b"2",
        f"{tree}/a name of more than twelve letters.jpg": b"an image of more than twelve bytes",
    }


@pytest.mark.parametrize("name", ["path", "bytes", "prompt"])
def test_a_column_that_is_there_twice_is_told(tmp_path: Path, name: str) -> None:
    columns = {"path": pa.array(["a"]), "bytes": pa.array([b"a"]), "prompt": pa.array(["a"])}
    table = pa.Table.from_arrays([*columns.values(), columns[name]], names=[*columns, name])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=f"has more than one column {name}"):
        find_work(str(tmp_path / "x.parquet"), "car", HERE)


def test_images_in_a_parquet_manifest(tree: Path) -> None:
    source = parquet(tree, {"bytes": [b"1", b"2", None], "prompt": pa.array(["a", "", "c"]).dictionary_encode()})
    work = find_work(source, "own", HERE)
    assert paths(work) == [f"{source}#{number}" for number in range(3)]
    assert work["prompt"].to_pylist() == ['"a"', '"own"', '"c"']
    assert work["group"].to_pylist() == [0, 0, 1]
    assert work["row"].to_pylist() == [0, 1, 0]


def test_a_jsonl_manifest(tree: Path) -> None:
    image = base64.b64encode(b"12345").decode()
    lines = [{"path": "a.jpg"}, {"bytes": image, "prompt": ["é"]}, {"path": "b c.PNG", "bytes": image, "prompt": " "}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    source = tree / "list.jsonl"
    source.write_text(f"{text}\r\n\n  \nno json\n[1]\n" + '{"path": "a.jpg", "prompt": 3}', encoding="utf-8")
    work = find_work(str(source), "own", HERE)
    assert paths(work) == [
        f"{tree}/a.jpg",
        f"{source}#1",
        f"{tree}/b c.PNG",
        *(f"{source}#{n}" for n in (3, 4)),
        f"{tree}/a.jpg",
    ]
    assert work["prompt"].to_pylist() == ['"own"', '["é"]', '"own"', '""', '""', '""']
    assert work["size"].to_pylist() == [None, 6, 6, None, None, None]
    data = source.read_bytes()
    starts = [row for row in work["row"].to_pylist() if row is not None]
    assert [data[start:].split(b"\n")[0].split(b":")[0] for start in starts] == [
        b'{"bytes"',
        b'{"path"',
        b"no json",
        b"[1]",
        b'{"path"',
    ]


def test_twice_in_a_manifest_is_twice_in_the_work(tree: Path) -> None:
    names = ["a.jpg", "b c.PNG", "a.jpg", "a.jpg", "b c.PNG"]
    work = find_work(parquet(tree, {"path": names, "prompt": ["x", "x", "x", "y", "x"]}), None, HERE)
    counts = [("a.jpg", "x", 0), ("b c.PNG", "x", 0), ("a.jpg", "x", 1), ("a.jpg", "y", 0), ("b c.PNG", "x", 1)]
    assert work["id"].to_pylist() == [row_id(f"{tree}/{name}", f'"{prompt}"', count) for name, prompt, count in counts]


def test_manifests_in_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    for number, names in enumerate((["a.jpg", "../b.jpg"], ["./c/d%20.jpg"])):
        file = parquet(tmp_path, {"path": names}, f"{number}.parquet")
        bucket.put(f"lists/v1/{number}.parquet", Path(file).read_bytes())
    expected = [f"{bucket.uri}/lists/{name}" for name in ("v1/a.jpg", "b.jpg", "v1/c/d%20.jpg")]
    for source in ("lists/v1", "lists/*/*.parquet"):
        assert paths(find_work(f"{bucket.uri}/{source}", "car", bucket.options())) == expected
    assert paths(find_work(f"{bucket.uri}/lists/v1/1.parquet", "car", bucket.options())) == expected[2:]
    bucket.put("lists/v1/cover.jpg")
    assert paths(find_work(f"{bucket.uri}/lists/v1", "car", bucket.options())) == [f"{bucket.uri}/lists/v1/cover.jpg"]


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("x.parquet", {"file": ["a"], "text": ["b"]}, "neither a column path nor one bytes; it has: file, text"),
        ("x.parquet", {"path": [1]}, "column path of .* must be text"),
        ("x.parquet", {"bytes": ["text"]}, "column bytes of .* must be binary"),
        ("x.parquet", {"path": ["a"], "prompt": [1]}, "column prompt of .* must be text or lists of texts"),
        ("x.parquet", {"path": ["a"]}, "Give a prompt, or a manifest with a column prompt"),
        ("x.parquet", {"path": pa.array([], pa.string())}, "names no image"),
    ],
)
def test_what_a_manifest_lacks_is_told(tmp_path: Path, name: str, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        find_work(parquet(tmp_path, columns, name), None, HERE)


def test_what_is_no_source_is_told(tree: Path, bucket: Bucket) -> None:
    (tree / "empty").mkdir()
    (tree / "bad.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    whole = Path(
        parquet(tree, {"path": [f"{number}.jpg" for number in range(5_000)]}, "cut.parquet", 5_000)
    ).read_bytes()
    (tree / "cut.parquet").write_bytes(whole[:4] + bytes(1_000) + whole[1_004:])
    (tree / "bad.jsonl").write_text("path\na.jpg\n")
    wrong = {
        f"{tree}/none": "no file, object or folder",
        f"{tree}/none*": "names no image",
        f"{tree}/empty": "names no image",
        f"{tree}/bad.parquet": "cannot be read as parquet",
        f"{tree}/cut.parquet": "cannot be read as parquet",
        f"{tree}/bad.jsonl": "has no line like",
        f"{bucket.uri}/none": "no file, object or folder",
        f"{bucket.uri}/none/**": "names no image",
        bucket.uri: "names no image",
        "s3://no-such-bucket/x": "there is no bucket 'no-such-bucket'",
        "https://host/a.jpg": "give a path, file://, s3://, gs:// or abfs://",
        f"{bucket.uri}/a/../b": "copy the object to another key",
    }
    for source, says in wrong.items():
        with pytest.raises(InputError) as caught:
            find_work(source, "car", bucket.options())
        assert says in str(caught.value)


def test_a_store_that_refuses_is_told(bucket: Bucket) -> None:
    bucket.put("a.jpg")
    with (
        checked_credentials(RIGHTS),
        pytest.raises(InputError, match="does not take these credentials"),
    ):
        find_work(bucket.uri, "car", bucket.options())
    with Front(bucket.endpoint, lambda number: "500") as front:
        options = bucket.options(endpoint_url=front.endpoint, attempts=2)
        with pytest.raises(InputError, match="could not be reached"):
            find_work(bucket.uri, "car", options)
