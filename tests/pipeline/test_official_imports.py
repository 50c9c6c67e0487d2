"""What the official packages drag in stays out: cv2 and matplotlib, and warnings that nobody can mend."""

from __future__ import annotations

import subprocess
import sys

RUN = """
import sys
for name in ("cv2", "matplotlib", "supervision"):
    sys.modules[name] = None  # any import of it fails
import numpy as np
from pipeline import TextToMask
model = TextToMask.from_pretrained("tiny")
image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
result = model.predict(image, "red circle, star", box_threshold=0.0, text_threshold=0.0, max_detections=2)
assert len(result.rles) == 2
import groundingdino.datasets.transforms, groundingdino.util.box_ops  # what the parity tests judge by
"""


def test_the_whole_path_without_cv2_and_without_warnings() -> None:
    """With every warning an error; what a third package does on its own import, in its own code, is not ours."""
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", RUN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=_environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"OMP_NUM_THREADS": "1"}
