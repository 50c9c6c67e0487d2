"""Arms without HTTP, in a process of their own: JPEG bytes in, the text of the JSON answer out, one after another."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.serving.material import MODEL, cases
from benchmarks.serving.official import Official
from pipeline.text_to_mask import TextToMask, load_image

Answer = Callable[[bytes, str], str]


def official() -> Answer:
    model = Official(MODEL)
    return lambda image, prompt: "".join(model.predict(load_image(image), prompt).json_pieces())


def ours() -> Answer:
    from pipeline.allocator import keep_freed_memory

    keep_freed_memory()
    model = TextToMask.from_pretrained(MODEL)
    return lambda image, prompt: "".join(model.predict(image, prompt).json_pieces())


def work(build: Callable[[], Answer], threads: int) -> None:
    """For each line `ask NUMBER` on standard input, the answer about that case; for `run SECONDS`, the seconds that
    each of as many answers as fit took. One line of JSON each."""
    torch.set_num_threads(threads)
    answer = build()
    print("ready", flush=True)
    for line in sys.stdin:
        what, value = line.split()
        if what == "ask":
            case = cases()[int(value)]
            print(json.dumps(json.loads(answer(case.unseen(), case.prompt))), flush=True)
            continue
        took: list[float] = []
        end = time.perf_counter() + float(value)
        while (begin := time.perf_counter()) < end:
            case = cases()[len(took) % len(cases())]
            answer(case.unseen(), case.prompt)
            took.append(time.perf_counter() - begin)
        print(json.dumps(took), flush=True)
