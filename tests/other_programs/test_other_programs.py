"""Our formats, opened by the current releases of the programs that they are for, each with its own code.

These programs do not fit into our environment, so they get one of their own, made once from `requirements.txt` and
kept in pytest's cache (1 GB). Where the package index cannot be reached, these tests are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from PIL import Image

from tests.other_programs.open_formats import MISSING
from tests.pipeline.formats.scene import (
    CLASSES,
    HEIGHT,
    WIDTH,
    boxes_only,
    masks,
    nothing_found,
    one_mask_empty,
    result,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NO_INDEX = ("error sending request", "Failed to fetch", "dns error", "Could not connect", "timed out")

pytestmark = pytest.mark.nightly

LABELING_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image">{labels}</BrushLabels>
  <PolygonLabels name="polygon" toName="image">{labels}</PolygonLabels>
  <RectangleLabels name="box" toName="image">{labels}</RectangleLabels>
</View>"""


@pytest.fixture(scope="session")
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of the other programs' environment."""
    requirements = HERE / "requirements.txt"
    name = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = request.config.cache.mkdir("other-programs") / name
    interpreter = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"
    if not ready.exists():
        uv = [sys.executable, "-m", "uv", "--quiet"]
        run([*uv, "venv", "--clear", "--python", sys.executable, str(folder)])
        install = [*uv, "pip", "install", "--require-hashes", "--only-binary", ":all:", "--python", str(interpreter)]
        done = subprocess.run(
            [*install, "-r", str(requirements)], capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode and any(sign in done.stderr for sign in NO_INDEX):
            pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
        ready.touch()
    return interpreter


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the drawn masks, the image and every format's files."""
    folder = tmp_path_factory.mktemp("written")
    np.savez(folder / "truth.npz", masks=masks())
    (folder / "images").mkdir()
    image = folder / "images" / "image.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(image)
    label_studio = {"brush": "brush", "polygon": "polygon", "rectangle": "box"}
    files = {
        "result": result().to_json(),
        "nothing_found": nothing_found().to_json(),
        "one_mask_empty": one_mask_empty().to_json(),
        "boxes_only": boxes_only().to_json(),
        "coco": result().to_coco("image.png"),
        "labelme_polygon": result().to_labelme("images/image.png"),
        "labelme_mask": result().to_labelme("images/image.png", form="mask"),
        "labelme_data": result().to_labelme("elsewhere.png", image_data=image.read_bytes()),
        "labelme_boxes": boxes_only().to_labelme("images/image.png"),
        "labelme_nothing": nothing_found().to_labelme("images/image.png"),
        "label_studio": result().to_label_studio("a.jpg", **label_studio),
        "label_studio_boxes": boxes_only().to_label_studio("a.jpg", rectangle="box"),
        "label_studio_nothing": nothing_found().to_label_studio("a.jpg", **label_studio),
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    labels = "".join(f"<Label value={quoteattr(label)}/>" for label in CLASSES)
    (folder / "label_studio.xml").write_text(LABELING_CONFIG.format(labels=labels), encoding="utf-8")
    return folder


@pytest.mark.parametrize("program", ["supervision", "labelme", "label_studio"])
def test_it_opens_our_files(program: str, python: Path, written: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "QT_QPA_PLATFORM": "offscreen", "MPLBACKEND": "agg"}
    command = [str(python), str(HERE / "open_formats.py"), program, str(written)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == MISSING:
        pytest.skip(f"a library of the system is missing: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "opened by" in done.stdout


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
