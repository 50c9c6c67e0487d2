"""What an export must know of all rows before it writes the first: where the images lie, and what was found at all."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.jobs.manifest import Manifest
from deployments.jobs.parts import read_part
from deployments.jobs.storage import Place

_COLUMNS = [
    "path",
    "prompt",
    "error.code",
    "detections.list.element.class_id",
    "detections.list.element.label",
]
_LONGEST = 180  # bytes of a part of a name; file systems take 255, and endings are added
_NEVER = {"": "%", ".": "%2E", "..": "%2E%2E"}  # parts that would lead elsewhere, and what they become


@dataclass(frozen=True, slots=True)
class Survey:
    """What the rows have in common. Of a million rows some 10 MB.

    Attributes:
        root: the parts of the deepest folder that all images lie in.
        repeated: hashes of the names that more than one row would have.
        categories: the number of each label that was found, from 1.
        errors: rows with one.
        root_uri: the folder, as people write it.
    """

    root: tuple[str, ...]
    repeated: frozenset[int]
    categories: dict[str, int]
    errors: int
    root_uri: str

    def place_of(self, path: str) -> str:
        """Where an image lies below the common folder."""
        return "/".join(_parts(path)[len(self.root) :])

    def is_repeated(self, path: str) -> bool:
        """Whether another row has this path, or one that a file system takes for the same."""
        return _hash(path) in self.repeated

    def name(self, id: str, path: str) -> str:
        """What files about a row are called, before their endings: `place_of`, made fit for any store.

        Of several rows of one image, with other prompts, each has the beginning of its id behind it. A part that a path
        cannot have (`..`, an empty one), or that is too long for a file, is replaced.
        """
        name = "/".join(map(_safe, _parts(path)[len(self.root) :]))
        return f"{name}~{id[:8]}" if self.is_repeated(path) else name


def survey(output: Place, manifest: Manifest) -> Survey:
    """Reads paths, prompts and labels of all rows. Raises StorageError, OutputError."""
    root: tuple[str, ...] | None = None
    hashes: list[np.ndarray[tuple[int], np.dtype[np.uint64]]] = []
    labels: dict[str, int] = {}
    prompts: set[str] = set()
    first = ""
    for part in manifest.parts:
        for table in read_part(output, part.name, _COLUMNS):
            paths = table["path"].to_pylist()
            hashes.append(np.fromiter(map(_hash, paths), np.uint64, len(paths)))
            for path in paths:
                folder = _parts(path)[:-1]
                root = folder if root is None else _common(root, folder)
                first = first or path
            if len(prompts) < 2:
                prompts.update(table["prompt"].unique().to_pylist())
            for label, class_id in _found(table):
                labels[label] = min(class_id, labels.get(label, class_id))
    root = root or ()
    numbers, counts = np.unique(np.concatenate([*hashes, np.zeros(0, np.uint64)]), return_counts=True)
    repeated = frozenset(numbers[counts > 1].tolist())
    return Survey(root, repeated, _categories(labels, len(prompts) < 2), manifest.errors, _uri(root, first))


def _categories(labels: dict[str, int], one_prompt: bool) -> dict[str, int]:
    """By class where all rows have the same classes, as everywhere else; or in alphabetical order."""
    if one_prompt:
        return {label: class_id + 1 for label, class_id in sorted(labels.items(), key=lambda item: item[1])}
    return {label: number for number, label in enumerate(sorted(labels), 1)}


def _found(table: pa.Table) -> set[tuple[str, int]]:
    """The labels in some rows, with their classes."""
    found = pc.list_flatten(table["detections"]).combine_chunks()
    columns = [pc.struct_field(found, name) for name in ("label", "class_id")]
    pairs = pa.table(columns, ["label", "class_id"]).group_by(["label", "class_id"]).aggregate([])
    return {(row["label"], row["class_id"]) for row in pairs.to_pylist()}


def _parts(path: str) -> tuple[str, ...]:
    """`/a/b.jpg`: a, b.jpg; `s3://bucket/a/b.jpg`: s3, bucket, a, b.jpg."""
    scheme, sign, rest = path.partition("://")
    return (scheme, *rest.split("/")) if sign else tuple(path.lstrip("/").split("/"))


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    if b[: len(a)] == a:
        return a
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return a[:same]


def _uri(root: tuple[str, ...], path: str) -> str:
    """The folder that `path`, like all others, lies in."""
    scheme, sign, _ = path.partition("://")
    return f"{scheme}://{'/'.join(root[1:])}" if sign and root else f"/{'/'.join(root)}"


def _safe(part: str) -> str:
    part = _NEVER.get(part, part)
    data = part.encode()
    if len(data) <= _LONGEST:
        return part
    short = data[:_LONGEST].decode(errors="ignore")
    return f"{short}~{hashlib.sha256(data).hexdigest()[:8]}"


def _hash(path: str) -> int:
    """The same for paths that would be one file anywhere: some systems do not tell A from a, or ways to write é."""
    name = "/".join(map(_safe, _parts(path)))
    same = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return int.from_bytes(hashlib.blake2b(same.encode(), digest_size=8).digest())
