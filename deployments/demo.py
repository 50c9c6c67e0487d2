"""`python -m deployments.demo`: the whole service, once, on a bundled picture. `make demo` runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from deployments.launch import DEFAULT_HOST, DEFAULT_PORT, PortTakenError, running
from pipeline.image import decode
from pipeline.result import Result

PICTURE = Path(__file__).parents[1] / "pipeline" / "tiny" / "demo.png"
PROMPT = "red circle, star, blue square"
OUT = Path("out/demo")
TIMEOUT_S = 120.0

console = Console()


def main(picture: Path = PICTURE, prompt: str = PROMPT, out: Path = OUT, port: int = DEFAULT_PORT) -> int:
    """Start, ask, show, stop. The exit status: 0, or 1 where the port is taken or the answer is a refusal."""
    console.print("Starting the service with the embedded model; about half a minute.")
    try:
        with running({"model": "tiny"}, {"host": DEFAULT_HOST, "port": port}) as url:
            answer = ask(f"{url}/v1/segment", picture.read_bytes(), prompt)
    except PortTakenError as error:
        console.print(f"{error}. Stop what listens there, and run the demo again.", style="red", highlight=False)
        return 1
    except httpx.HTTPStatusError as error:
        console.print(f"The service answered {error.response.status_code}: {error.response.text}", style="red")
        return 1
    show(answer, prompt)
    write(answer, picture.read_bytes(), out)
    return 0


def ask(url: str, image: bytes, prompt: str) -> dict[str, Any]:
    """Post a picture and a text, as a form; the answer's JSON."""
    console.print(f"POST {url}  prompt={prompt!r}", highlight=False)
    # trust_env: a proxy meant for the internet must not see what goes to this machine.
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        response = client.post(url, files={"image": image}, data={"prompt": prompt}).raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def show(answer: dict[str, Any], prompt: str) -> None:
    """A table of what was found."""
    table = Table("label", "score", "box (x0, y0, x1, y1)", "area, px", "mask score", title=f"Found for {prompt!r}")
    for found in answer["detections"]:
        box = ", ".join(f"{side:.0f}" for side in found["box"])
        table.add_row(found["label"], f"{found['score']:.2f}", box, str(found["area"]), f"{found['mask_score']:.2f}")
    console.print(table)
    console.print("ms:", ", ".join(f"{name} {value:.0f}" for name, value in answer["timings_ms"].items()))


def write(answer: dict[str, Any], image: bytes, out: Path) -> None:
    """`result.json` and `overlay.png` in `out`."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(answer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    Image.fromarray(Result.from_json(answer).overlay(decode(image))).save(out / "overlay.png")
    console.print(f"Wrote {out / 'result.json'} and {out / 'overlay.png'}.", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
