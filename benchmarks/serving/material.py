"""What every arm is asked: a fixed mix of drawn scenes and prompts, and the bodies of requests about them."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from itertools import count

import torch
from PIL import Image

from pipeline.tiny import scenes

SIZES = ((480, 640), (768, 1024), (480, 640), (640, 480), (300, 400), (720, 1280)) * 2  # (height, width)
SEED = 20_260
MODEL = "tiny"

_serial = count()


@dataclass(frozen=True, slots=True)
class Case:
    """One image, as a JPEG file, and what is asked about it."""

    jpeg: bytes
    prompt: str
    size: tuple[int, int]

    def unseen(self) -> bytes:
        """The same pixels in bytes that no cache knows: each time with another comment."""
        note = f"{next(_serial):012d}".encode()
        return self.jpeg[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + self.jpeg[2:]

    def body(self) -> bytes:
        """Of `POST /v1/segment`, about an unseen file."""
        return body(self.unseen(), self.prompt)


def body(image: bytes, prompt: str) -> bytes:
    value = b64encode(image).decode()
    return json.dumps({"image": {"type": "base64", "value": value}, "prompt": prompt}).encode()


@cache
def cases() -> tuple[Case, ...]:
    """The same in every process and on every machine, as far as torch's random numbers are."""
    generator = torch.Generator().manual_seed(SEED)
    made = []
    for height, width in SIZES:
        scene = scenes.draw(1, height, width, generator)
        pixels = scene.images[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=92)
        names = [
            f"{scenes.COLOUR_NAMES[int(colour)]} {scenes.SHAPES[int(shape)]}"
            for colour, shape, there in zip(scene.colours[0], scene.shapes[0], scene.present[0], strict=True)
            if there
        ]
        # Two by colour and shape, one by shape alone.
        prompt = ", ".join(dict.fromkeys([*names[:2], *(name.split()[1] for name in names[2:3])])) or "red circle"
        made.append(Case(file.getvalue(), prompt, (height, width)))
    return tuple(made)
