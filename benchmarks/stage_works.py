"""What `benchmarks.stage_profile` runs: the stages of each size of model, and what a CPU does between them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.models import architectures, deformable, groundingdino, groundingdino_build, sam, sam_decoder
from tests.pipeline.redraw import redraw

SIZES = ("tiny", "Swin-T and ViT-B", "ViT-H")
Work = tuple[str, str, bool, Callable[[], Any]]
"""Size, stage, whether a pass takes so long that one is enough, and what runs it."""


def settle() -> None:
    """One thread, which keeps what it frees."""
    from pipeline.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)


def works(without: set[str]) -> Iterator[Work]:
    """Stage after stage; of ViT-H the image encoder alone, as its decoder is ViT-B's."""
    if "tiny" not in without:
        yield "tiny", "detector, 160x213", False, detector("groundingdino-tiny", (160, 213))
        yield "tiny", "image encoder", False, encoder("sam-tiny")
        yield "tiny", "mask decoder, 5 boxes", False, decoder("sam-tiny")
    if "Swin-T and ViT-B" not in without:
        yield "Swin-T", "detector, 800x1066", False, detector("groundingdino-swint-ogc", (800, 1066))
        yield "ViT-B", "image encoder", False, encoder("sam-vit-b")
        yield "ViT-B", "mask decoder, 5 boxes", False, decoder("sam-vit-b")
    if "ViT-H" not in without:
        yield "ViT-H", "image encoder", True, encoder("sam-vit-h")


def detector(name: str, size: tuple[int, int]) -> Callable[[], Any]:
    arch = architectures.detector_architecture(name)
    model: Any = groundingdino_build.build(arch)
    redraw(model, seed=3)
    step = arch.pad_multiple
    height, width = (-(-length // step) * step for length in size)
    image = torch.zeros(1, 3, height, width)
    image[..., : size[0], : size[1]] = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(4))
    padding = torch.ones(1, height, width, dtype=torch.bool)
    padding[:, : size[0], : size[1]] = False
    text = groundingdino.text_batch([(1, 20, 3, 30, 3, 2)], frozenset({1, 2, 3}), 0)

    def run() -> Any:
        memory = groundingdino.encode(model, image, padding, text)
        logits, boxes = groundingdino.propose(model, memory)
        return groundingdino.decode(model, memory, boxes, groundingdino.top_queries(model, logits))

    return run


def encoder(name: str) -> Callable[[], Any]:
    arch = architectures.segmenter_architecture(name)
    model = sam.build(arch).image_encoder
    images = torch.randn(1, 3, arch.image_size, arch.image_size, generator=torch.Generator().manual_seed(5))
    return lambda: sam.encode_images(model, images)


def decoder(name: str) -> Callable[[], Any]:
    arch = architectures.segmenter_architecture(name)
    model = sam.build(arch)
    redraw(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(1, arch.out_chans, arch.embedding_size, arch.embedding_size, generator=generator)
    corners = torch.rand(5, 2, 2, generator=generator).sort(1).values.reshape(5, 4) * arch.image_size
    index = torch.zeros(5, dtype=torch.int64)

    def run() -> Any:
        sparse, dense = model.prompt_encoder(points=None, boxes=corners, masks=None)
        pe = model.prompt_encoder.get_dense_pe()
        return sam_decoder.predict_masks(model.mask_decoder, embeddings, index, pe, sparse, dense)

    return run


def host() -> dict[str, Callable[[], Any]]:
    """The work around full-size models on a JPEG of 1600x1200: decoding, resizing for either model, run lengths."""
    from pipeline import image as images
    from pipeline.detector import MEAN, STD
    from pipeline.models.sam_upsampling import full_size
    from pipeline.planes import planes
    from pipeline.stages import Embedding

    rng = np.random.default_rng(6)
    rough = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    picture, stored = rough.resize((1600, 1200), Image.Resampling.BICUBIC), io.BytesIO()
    picture.save(stored, "JPEG", quality=90)
    pixels, turn = np.asarray(picture), iter(range(10**9))
    y, x = np.mgrid[:256, :256]
    logits = (1 - ((y - 90) ** 2 + (x - 120) ** 2) / 50.0**2).astype(np.float32)
    embedding = Embedding(np.zeros((1, 1, 1), np.float32), input_size=(768, 1024), image_size=(1200, 1600))

    def resized(width: int, height: int) -> Any:
        small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        return planes(np.asarray(small), MEAN, STD, scale=255)

    return {
        # A byte after the end each time, so that no cache of decoded images answers.
        "JPEG 1600x1200 to pixels": lambda: images.decode(stored.getvalue() + next(turn).to_bytes(4, "big")),
        "resizing and normalising, 800x1066": lambda: resized(1066, 800),
        "resizing and normalising, 768x1024": lambda: resized(1024, 768),
        "a mask 1200x1600 to run lengths": lambda: full_size(logits, embedding, 1024),
    }


@contextmanager
def marked_sampling(mark: Any) -> Iterator[None]:
    """While deformable attention samples, `mark.sampling` is true."""
    module: Any = deformable
    official = module.sample

    def sample(*args: Any) -> Any:
        mark.sampling = True
        try:
            return official(*args)
        finally:
            mark.sampling = False

    module.sample = sample
    try:
        yield
    finally:
        module.sample = official
