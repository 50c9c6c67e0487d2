"""What each target starts from: sound inputs, made with our own encoders, and a few old tricks."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.formats.low_res import low_res_json
from pipeline.formats.masks import mask_json
from pipeline.masks import encode
from tests.deployments.fakes import base64, picture
from tests.fuzz.body_targets import BOUNDARY
from tests.fuzz.header_targets import KEY

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def seeds(target: str) -> list[bytes]:
    """A few inputs, the same ones every time."""
    return [one if isinstance(one, bytes) else json.dumps(one).encode() for one in _SEEDS.get(target, [b"seed"])]


def _pictures() -> list[bytes]:
    # Each container, and the modes that take another way through the decoder.
    found = [picture((7, 5), form) for form in ("PNG", "JPEG", "WEBP")]
    found += [picture((3, 4), "PNG", mode) for mode in ("L", "LA", "RGBA", "P", "1", "I;16")]
    found += [picture((4, 3), "JPEG", mode) for mode in ("L", "CMYK")]
    found.append(picture((4, 3), "GIF", "P"))
    turned = Image.Exif()
    turned[0x0112] = 6
    for form in ("PNG", "JPEG", "WEBP"):
        file = BytesIO()
        Image.new("RGBA" if form == "WEBP" else "RGB", (6, 2)).save(file, form, exif=turned.tobytes(), lossless=True)
        found.append(file.getvalue())
    return found


def _masks() -> list[Any]:
    pixels = np.zeros((6, 9), np.bool_)
    return [encode(pixels), encode(~pixels), encode(np.indices((6, 9)).sum(0) % 3 == 0)]


def _form(**fields: str) -> bytes:
    parts = [_part(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts.append(_part('name="image"; filename="a.png"', picture((2, 2))))
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def _part(names: str, value: bytes) -> bytes:
    return b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; " + names.encode() + b"\r\n\r\n" + value + b"\r\n"


_LOW_RES = low_res_json(np.zeros((2, 2), np.float16))
_IMAGE = base64(picture((2, 2)))
_PROMPTS: list[Any] = [
    {"boxes": [[1, 2, 30, 40]], "points": [[5, 6, 1]]},
    {"points": [[[5, 6, 1], [7, 8, 0]], [[1, 1, 1]]], "low_res": True},
    {"boxes": [[0.5, 0, 1e3, 1e3], [1, 1, 2, 2]], "points": [[], [[1, 1, 0]]]},
]
_QUERY = {
    "prompt": ["car", {"text": "wheel", "box_threshold": 0.4}],
    "negative_prompt": "shadow",
    "mode": "classes",
    "model": "tiny",
    "nms": "agnostic",
    "nms_threshold": 0.5,
    "min_area": 0.01,
    "max_detections": 5,
    "tile": {"size": 640, "overlap": 128},
    "multimask": True,
    "masks": "png",
}

_SEEDS: dict[str, list[Any]] = {
    "image_header": _pictures(),
    "image": _pictures(),
    "rle": [bytes([one.size[0], 0, one.size[1], 0]) + one.counts.encode() for one in _masks()],
    "mask_form": [mask_json(one, form) for one in _masks() for form in ("rle", "polygon", "png")],
    "low_res": [_LOW_RES, low_res_json(np.ones((3, 3), np.float16))],
    "prompt_text": [b"car, wheel", "Tür. [SEP] [mask]\n車\u0301;e\u0301".encode(), b"a" * 120],
    "prompt_json": ["car", ["car", "wheel"], [{"text": "car", "box_threshold": 0.3}, "e\u0301", "\u00e9"]],
    "mask_prompts": [*_PROMPTS, {"boxes": [[1, 2, 3, 4]], "mask_input": [[[0.5, 1], [2, 3]]]}],
    "tile": [["auto", 4000, 3000], [{"size": 640, "overlap": 128}, 2000, 1500], [{"size": 64, "overlap": 32}, 1, 99]],
    "json_text": [{"a": [1, 2.5, None, True, "x"]}, [[[[]]]], b'{"a":1,"a":2}', b"[NaN, 1e999, -0, 1E400]"],
    "segment_json": [
        {"image": _IMAGE, "prompt": "car, wheel"},
        {"image": {"type": "url", "value": "https://images.example.com/a.png"}, **_QUERY},
        {"image": {"type": "id", "value": DIGEST}, "prompt": "car", "tile": "auto", "raw": True},
    ],
    "masks_json": [
        *({"image": _IMAGE, **{name: one[name] for name in one}} for one in _PROMPTS),
        {"image": _IMAGE, "boxes": [[1, 2, 3, 4]], "mask_input": [_LOW_RES], "multimask": True, "masks": "polygon"},
    ],
    "form": [b"multipart/form-data; boundary=b\n" + _form(prompt="car"), b'form-data; boundary="b"\n' + _form()],
    "segment_form": [
        _form(prompt="car, wheel"),
        _form(prompt='["car", {"text": "wheel"}]', tile='{"size": 640, "overlap": 128}', raw="true", min_area="0.1"),
    ],
    "masks_form": [
        _form(boxes="[[1, 2, 3, 4]]", multimask="1"),
        _form(points="[[5, 6, 1]]", mask_input=json.dumps([_LOW_RES]), low_res="true"),
    ],
    "url": [
        b"https://images.example.com/a.png?x=1#y\nhttps://b.cdn.example.com/c",
        b"HTTPS://Images.Example.com:443/%41\n/other?d",
        b"https://images.example.com@127.0.0.1/\n//a.cdn.example.com/x",
        b"https://images.example.com\n\\\\a.example.com",
    ],
    "host_rule": [b"images.example.com, *.cdn.example.com", b"*.com", b"127.0.0.1,localhost,::1"],
    "address": [
        b"93.184.216.34",
        b"127.0.0.1",
        b"::ffff:10.0.0.1",
        b"64:ff9b::7f00:1",
        b"2606:4700::1111",
        b"fe80::1%1",
    ],
    "fetch": [
        b"https://images.example.com/a.png\n93.184.216.34\n2606:4700::1111",
        b"https://a.cdn.example.com/\n93.184.216.34\n127.0.0.1",
    ],
    "image_id": [DIGEST.encode(), DIGEST.upper().encode(), DIGEST.encode() + b"\n"],
    "timeout_header": [b"5", b"0.1", b"1e3", b"inf", b"nan", b"-1", b"1\n2", b"1_0"],
    "headers": [
        b"image/png, application/json;q=0.5",
        b"image/*;q=0.8, */*;q=0.1",
        b"application/json; charset=utf-8",
        b"12345",
        b"identity",
        b"req-1.2:3",
    ],
    "authorization": [b"Bearer " + KEY, b"bearer  " + KEY + b" ", b"Basic abc", b"Bearer " + KEY + b"\nBearer x"],
    "path": [b"/", b"/docs", b"/static/docs/start.js", b"/static/../v1/models", b"/app/healthz\n/app", b"/v1/models"],
    "keys_file": [
        f"- owner: somebody\n  sha256: {DIGEST}\n  requests_per_minute: 60\n".encode(),
        [{"owner": "a@b", "sha256": DIGEST}, {"owner": "c", "sha256": DIGEST[::-1], "requests_per_minute": None}],
        b"- 2001-02-29",
        b"- &a [x]\n- *a\n- !!binary YQ==\n- 2001-01-01\n- {<<: {a: 1}}\n",
    ],
    "config_file": [
        (Path(__file__).parents[2] / "configs" / "local.yaml").read_bytes(),
        {"applications": [{"import_path": "deployments.app:build_app", "args": {"model": "tiny"}}]},
    ],
}
