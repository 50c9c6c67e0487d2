"""What is computed: words and an image in, masks out. torch and numpy, one process, no service.

`import pipeline` is cheap: the names below load their module (and torch, where it needs it) on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lazy import lazy

if TYPE_CHECKING:
    from pipeline.errors import StageError
    from pipeline.langsam import LangSAM
    from pipeline.mask_result import MaskResult
    from pipeline.pictures import draw_image, load_image
    from pipeline.result import Result
    from pipeline.text_to_mask import TextToMask

__version__ = "0.1.0"
__all__ = ["LangSAM", "MaskResult", "Result", "StageError", "TextToMask", "__version__", "draw_image", "load_image"]

_HOME = {
    "LangSAM": "pipeline.langsam",
    "MaskResult": "pipeline.mask_result",
    "Result": "pipeline.result",
    "StageError": "pipeline.errors",
    "TextToMask": "pipeline.text_to_mask",
    "draw_image": "pipeline.pictures",
    "load_image": "pipeline.pictures",
}

__getattr__, __dir__ = lazy(__name__, _HOME, "local")
