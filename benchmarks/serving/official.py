"""GroundingDINO and SAM on the published classes, then this repository's post-processing: what LangSAM does.

The published text encoder does not run on today's transformers; our way around it, which is equal to the last bit,
serves both. Everything else that `pipeline.models` replaces is put back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from groundingdino.models.GroundingDINO.ms_deform_attn import MultiScaleDeformableAttention
from segment_anything import SamPredictor

from benchmarks.model_cores import official_linear
from pipeline import masks as run_lengths
from pipeline.bundle import load_weights, resolve
from pipeline.detector import Detector, DetectorItem
from pipeline.models import sam
from pipeline.models.architectures import segmenter_architecture
from pipeline.query import read_query
from pipeline.result import Result, assemble
from pipeline.selection import select
from pipeline.stages import Detections, DetectRequest, Masks, UInt8Array


class Official:
    """Both models, as installed. One thread at a time."""

    def __init__(self, model: str) -> None:
        self._detector = Detector.from_bundle(resolve(model, "detector"))
        official_linear(self._detector.model)
        for module in self._detector.model.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.__class__ = MultiScaleDeformableAttention
        bundle = resolve(model, "segmenter")
        segmenter = sam.build(segmenter_architecture(bundle.architecture))
        load_weights(segmenter, bundle)
        official_linear(segmenter)
        self._predictor = SamPredictor(segmenter)
        self._name = f"{model}+{model}"

    def predict(self, pixels: UInt8Array, prompt: str) -> Result:
        return self.predict_many([(pixels, prompt)])[0]

    @torch.inference_mode()
    def predict_many(self, asked: Sequence[tuple[UInt8Array, str]]) -> list[Result]:
        """Answers for pixels and prompts: images of one padded shape together in the detector, all in SAM's image
        encoder, one after another in its decoder, which takes no more."""
        begin = time.perf_counter()
        queries = [read_query(prompt) for _, prompt in asked]
        found = self._detect([(pixels, request) for (pixels, _), (request, _) in zip(asked, queries, strict=True)])
        selected = [select(one, options) for one, (_, options) in zip(found, queries, strict=True)]
        prepared = {number: self._input(asked[number][0]) for number, (kept, _) in enumerate(selected) if len(kept)}
        features: Any = ()
        if prepared:
            tensors = torch.cat([self._predictor.model.preprocess(tensor) for tensor in prepared.values()])
            features = self._predictor.model.image_encoder(tensors)
        rows = dict(zip(prepared, features, strict=True))
        answers = []
        for number, ((request, _), (kept, removed)) in enumerate(zip(queries, selected, strict=True)):
            decoded = Masks.empty()
            if number in rows:
                decoded = self._masks(asked[number][0], prepared[number], rows[number], kept)
            spent = {"total": round(1000 * (time.perf_counter() - begin), 1)}
            answers.append(assemble(request, kept, removed, decoded, model=self._name, timings_ms=spent))
        return answers

    def _detect(self, asked: Sequence[tuple[UInt8Array, DetectRequest]]) -> list[Detections]:
        items = [self._detector.prepare(pixels, request) for pixels, request in asked]
        groups: dict[tuple[int, int], list[tuple[int, DetectorItem]]] = {}
        for number, item in enumerate(items):
            groups.setdefault(self._detector.batch_key(item), []).append((number, item))
        found: dict[int, Detections] = {}
        for group in groups.values():
            raw = self._detector.forward([item for _, item in group])
            for (number, item), one in zip(group, raw, strict=True):
                found[number] = self._detector.finish(item, one)
        return [found[number] for number in range(len(items))]

    def _input(self, pixels: UInt8Array) -> torch.Tensor:
        """`SamPredictor.set_image`, up to `set_torch_image`."""
        resized = self._predictor.transform.apply_image(pixels)
        return torch.as_tensor(resized).permute(2, 0, 1).contiguous()[None]

    def _masks(self, pixels: UInt8Array, tensor: torch.Tensor, features: torch.Tensor, kept: Detections) -> Masks:
        predictor = self._predictor
        predictor.reset_image()
        predictor.original_size, predictor.input_size = pixels.shape[:2], tuple(tensor.shape[-2:])
        predictor.features, predictor.is_image_set = features[None], True
        boxes = predictor.transform.apply_boxes_torch(torch.from_numpy(kept.boxes), pixels.shape[:2])
        masks, scores, _ = predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)
        dense = masks[:, 0].numpy()
        return Masks(
            tuple(run_lengths.encode(mask) for mask in dense),
            scores[:, 0].numpy(),
            dense.sum((1, 2)).astype(np.int32),
        )
