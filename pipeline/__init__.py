"""What is computed: words and an image in, masks out. torch and numpy, one process, no service.

`import pipeline` is cheap: the names below load their module (and torch, where it needs it) on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error.msg}; pip install 'text2mask[local]'", name=error.name) from error
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
