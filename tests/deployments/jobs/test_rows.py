"""What goes into a row comes out of the file again, for this program and for others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_masks

from deployments.jobs.rows import RESULTS, Row, RowError, error_row, read_row, result_row
from pipeline.result import Result
from tests.deployments.jobs.made import bad, good, table
from tests.pipeline.formats.scene import boxes_only, masks, nothing_found, one_mask_empty, result

pytestmark = [
    # pycocotools 2.0.11 on numpy 2.4.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
]


def through_a_file(folder: Path, *rows: dict[str, object]) -> list[Row]:
    pq.write_table(table(*rows), folder / "rows.parquet")
    return [read_row(row, "tiny+tiny") for row in pq.read_table(folder / "rows.parquet").to_pylist()]


@pytest.mark.parametrize(
    "went_in",
    [
        result(),
        boxes_only(),
        nothing_found(),
        one_mask_empty(),
        result(passes=3, removed={"negatives": 1, "nms": 2, "area": 3, "cap": 4}, warnings=("a", "b")),
    ],
    ids=["masks", "boxes only", "nothing found", "an empty mask", "the rest"],
)
def test_a_result_comes_back_equal(went_in: Result, tmp_path: Path) -> None:
    row = result_row("0" * 32, "s3://b/ü %20.jpg", '"car, wheel"', went_in, {"load": 0.1, "detect": 40.1, "total": 61})
    [back] = through_a_file(tmp_path, row)
    assert back.result == went_in
    assert (back.id, back.path, back.prompt, back.error) == ("0" * 32, "s3://b/ü %20.jpg", "car, wheel", None)
    assert back.timings_ms == {"load": 0.1, "detect": 40.1, "total": 61.0}


def test_a_list_of_classes_stays_json(tmp_path: Path) -> None:
    wanted = '[{"box_threshold": 0.4, "text": "car"}, "wheel"]'
    [back] = through_a_file(tmp_path, result_row("0", "a", wanted, nothing_found(), {}))
    assert back.prompt == wanted


def test_an_error_comes_back(tmp_path: Path) -> None:
    [back] = through_a_file(tmp_path, error_row("0", "a.png", '"car"', "image_not_found", "it is not there", {}))
    assert (back.result, back.error) == (None, RowError("image_not_found", "it is not there"))
    assert str(back.error) == "it is not there (image_not_found)"


def test_what_is_null(tmp_path: Path) -> None:
    pq.write_table(table(good("a"), bad("b")), tmp_path / "rows.parquet")
    fine, failed = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [name for name in RESULTS.names if fine[name] is None] == ["error"]
    absent = ["width", "height", "detections", "passes", "removed", "warnings"]
    assert [name for name in RESULTS.names if failed[name] is None] == absent
    assert failed["error"] == {"code": "image_undecodable", "message": "it cannot be read"}
    assert failed["timings_ms"] == {"load": 0.5, "detect": None, "encode": None, "masks": None, "total": None}


def test_pandas_and_pycocotools_read_the_masks(tmp_path: Path) -> None:
    pq.write_table(table(good("a"), bad("b")), tmp_path / "rows.parquet")
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    assert frame["error"].isna().tolist() == [True, False]
    found = frame.set_index("id").loc["a", "detections"]
    for detection, mask in zip(found, masks(), strict=True):
        size = [int(side) for side in detection["mask"]["size"]]
        decoded = coco_masks.decode({"size": size, "counts": detection["mask"]["counts"]})
        np.testing.assert_array_equal(decoded, mask)
        assert detection["area"] == mask.sum()
