"""SAM's prompt encoder and mask decoder: an embedding and prompts in, finished masks out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam

from pipeline.bundle import Bundle, load_weights
from pipeline.errors import StageError
from pipeline.models import sam as sam_model
from pipeline.models.architectures import SegmenterArchitecture, segmenter_architecture
from pipeline.models.sam_upsampling import full_size
from pipeline.stages import DecodeOptions, Embedding, Float32Array, MaskPrompts, Masks

_MAX_PROMPTS = 16  # boxes in one pass: at official sizes they take 0.6 GB
_POINTS_LIKE_A_PROMPT = 100  # points of an instance that take as much as itself, by their attention maps
_PART = 192  # low-resolution masks to keep at a time: 50 MB at official sizes


@dataclass(frozen=True, slots=True)
class Prompt:
    """One instance's prompt in the model's input frame: points `Px3`, box `(4,)`, mask `4Sx4S`, each or None."""

    points: Float32Array | None
    box: Float32Array | None
    mask: Float32Array | None

    @property
    def layout(self) -> tuple[int, bool, bool]:
        """Prompts of one layout make one rectangular batch; padding with empty points would change the answer."""
        return (0 if self.points is None else len(self.points), self.box is not None, self.mask is not None)


@dataclass(frozen=True, slots=True)
class DecoderItem:
    """One image's prompts, ready for the model."""

    embedding: Embedding
    prompts: tuple[Prompt, ...]
    options: DecodeOptions
    deadline: float | None = None

    @property
    def depth(self) -> int:
        """Masks to return for each prompt."""
        return 3 if self.options.multimask and self.options.alternatives else 1


@dataclass(frozen=True, slots=True)
class LowResolution:
    """The model's answer, best mask first: `NxKx4Sx4S` logits and `NxK` predicted IoUs. K is 1, or 3 where alternatives
    are asked for."""

    logits: Float32Array
    scores: Float32Array


class MaskDecoder:
    """Decodes masks. `prepare` and `finish` are thread-safe; one thread at a time in `forward`.

    Args:
        model: an official `Sam`, as `pipeline.models.sam.build` makes it; its image encoder is not used.
        arch: its hyper-parameters.
        device: where the model runs.
    """

    def __init__(self, model: Sam, arch: SegmenterArchitecture, device: str = "cpu") -> None:
        self.prompt_encoder = model.prompt_encoder.to(device).eval()
        self.decoder = model.mask_decoder.to(device).eval()
        self.arch = arch
        self.device = device

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> MaskDecoder:
        """Builds the model and loads the bundle's weights; `threads` sets torch's, process-wide. Raises BundleError."""
        if threads is not None:
            torch.set_num_threads(threads)
        arch = segmenter_architecture(bundle.architecture)
        model = sam_model.build(arch)
        load_weights(model, bundle)
        return cls(model, arch, device)

    def prepare(
        self, embedding: Embedding, prompts: MaskPrompts, options: DecodeOptions, deadline: float | None = None
    ) -> DecoderItem:
        """Checks the prompts and brings them into the model's frame (`ResizeLongestSide.apply_coords`).

        An instance with a box and an empty list of points counts as one with a box alone, as it does to SAM.

        Raises StageError `invalid_value` for prompts of unequal number, wrong shapes, or none.
        """
        side = self.arch.embedding_size
        if embedding.features.shape != (self.arch.out_chans, side, side):
            raise StageError("internal", "the embedding is another model's")
        scale = np.array(
            [embedding.input_size[1] / embedding.image_size[1], embedding.input_size[0] / embedding.image_size[0]],
            np.float64,
        )
        count = len(prompts)
        boxes, points, masks = prompts.boxes, prompts.points, prompts.mask_inputs
        if boxes is None and points is None:
            raise StageError("invalid_value", "boxes or points must be given", "boxes")
        if boxes is not None and boxes.shape != (count, 4):
            raise StageError("invalid_value", "boxes must be Nx4", "boxes")
        if points is not None and (len(points) != count or any(p.ndim != 2 or p.shape[1] != 3 for p in points)):
            raise StageError("invalid_value", "points must be one Px3 list for each instance", "points")
        if boxes is None and points is not None and not all(map(len, points)):
            raise StageError("invalid_value", "an instance without a box needs a point", "points")
        if masks is not None and masks.shape != (count, 4 * side, 4 * side):
            raise StageError("invalid_value", f"mask_input must be Nx{4 * side}x{4 * side}", "mask_input")
        return DecoderItem(
            embedding,
            tuple(
                Prompt(
                    points=None if points is None or not len(points[i]) else _scaled_points(points[i], scale),
                    box=None if boxes is None else (boxes[i].reshape(2, 2) * scale).reshape(4).astype(np.float32),
                    mask=None if masks is None else masks[i],
                )
                for i in range(count)
            ),
            options,
            deadline,
        )

    def batch_key(self, item: DecoderItem) -> None:
        """Any items share a batch: prompts of different images and layouts are sorted out in `forward`."""
        return

    def cost(self, item: DecoderItem) -> int:
        """Low-resolution masks to keep."""
        return len(item.prompts) * item.depth

    @torch.inference_mode()
    def forward(self, batch: Sequence[DecoderItem]) -> list[LowResolution]:
        """Low-resolution masks of every item's prompts, in their order."""
        side = 4 * self.arch.embedding_size
        shapes = [(len(item.prompts), item.depth) for item in batch]
        answers = [
            LowResolution(np.empty((*shape, side, side), np.float32), np.empty(shape, np.float32)) for shape in shapes
        ]
        embeddings = torch.from_numpy(np.stack([item.embedding.features for item in batch])).to(self.device)
        groups: dict[tuple[int, bool, bool], list[tuple[int, int]]] = {}
        for image, item in enumerate(batch):
            for number, prompt in enumerate(item.prompts):
                groups.setdefault(prompt.layout, []).append((image, number))
        for (points, _, _), members in groups.items():
            most = max(1, _MAX_PROMPTS * _POINTS_LIKE_A_PROMPT // (_POINTS_LIKE_A_PROMPT + points))
            for start in range(0, len(members), most):
                self._decode(batch, embeddings, members[start : start + most], answers)
        return answers

    def _decode(
        self,
        batch: Sequence[DecoderItem],
        embeddings: torch.Tensor,
        members: Sequence[tuple[int, int]],
        answers: Sequence[LowResolution],
    ) -> None:
        prompts = [batch[image].prompts[number] for image, number in members]

        def stacked(values: list[Any]) -> torch.Tensor | None:
            return None if values[0] is None else torch.from_numpy(np.stack(values)).to(self.device)

        points, masks = stacked([p.points for p in prompts]), stacked([p.mask for p in prompts])
        sparse, dense = self.prompt_encoder(
            points=None if points is None else (points[..., :2], points[..., 2]),
            boxes=stacked([p.box for p in prompts]),
            masks=None if masks is None else masks[:, None],
        )
        index = torch.tensor([image for image, _ in members], device=self.device)
        logits, scores = sam_model.predict_masks(
            self.decoder, embeddings, index, self.prompt_encoder.get_dense_pe(), sparse, dense
        )
        multimask = torch.tensor([batch[image].options.multimask for image, _ in members], device=self.device)
        order = scores[:, 1:].argsort(dim=1, descending=True, stable=True) + 1  # 0 is the single mask
        chosen = torch.where(multimask[:, None], order, 0)[:, : max(batch[image].depth for image, _ in members)]
        row = torch.arange(len(members), device=self.device)[:, None]
        picked, quality = logits[row, chosen].float().cpu().numpy(), scores[row, chosen].float().cpu().numpy()
        for i, (image, number) in enumerate(members):
            depth = batch[image].depth
            answers[image].logits[number] = picked[i, :depth]
            answers[image].scores[number] = quality[i, :depth]

    def finish(self, item: DecoderItem, raw: LowResolution) -> Masks:
        """Upsamples, thresholds and encodes the masks one at a time: no dense `N x H x W` array is ever made.

        Raises StageError `deadline_exceeded` as soon as it is: a thousand masks of a large image take minutes.
        """
        each = [self._finished(item, logits, scores) for logits, scores in zip(raw.logits, raw.scores, strict=True)]
        return Masks(
            rles=tuple(one.rles[0] for one in each),
            mask_scores=raw.scores[:, 0],
            areas=np.array([one.areas[0] for one in each], np.int32),
            low_res=raw.logits[:, 0] if item.options.low_res else None,
            alternatives=tuple(each) if item.depth > 1 else None,
        )

    def _finished(self, item: DecoderItem, logits: Float32Array, scores: Float32Array) -> Masks:
        """All masks of one prompt, from `Kx4Sx4S` logits."""
        made = []
        for one in logits:
            if item.deadline is not None and time.time() >= item.deadline:
                raise StageError("deadline_exceeded", "the request's time was over before all masks were made")
            made.append(full_size(one, item.embedding, self.arch.image_size))
        areas = np.array([area for _, area in made], np.int32)
        return Masks(tuple(rle for rle, _ in made), scores, areas, logits if item.options.low_res else None)

    def split(self, item: DecoderItem, max_cost: int | None) -> list[DecoderItem]:
        """Items of at most `max_cost` low-resolution masks each, if one prompt's do not exceed it."""
        count = max(1, (_PART if max_cost is None else max_cost) // item.depth)
        if len(item.prompts) <= count:
            return [item]
        return [
            replace(item, prompts=item.prompts[start : start + count]) for start in range(0, len(item.prompts), count)
        ]

    def merge(self, item: DecoderItem, parts: Sequence[Masks]) -> Masks:
        """The masks of all parts of `item`, in their order."""
        low_res = [part.low_res for part in parts if part.low_res is not None]
        alternatives = [one for part in parts for one in part.alternatives or ()]
        return Masks(
            rles=tuple(rle for part in parts for rle in part.rles),
            mask_scores=np.concatenate([part.mask_scores for part in parts]),
            areas=np.concatenate([part.areas for part in parts]),
            low_res=np.concatenate(low_res) if item.options.low_res else None,
            alternatives=tuple(alternatives) if item.depth > 1 else None,
        )

    def decode(
        self, embedding: Embedding, prompts: MaskPrompts, options: DecodeOptions, deadline: float | None = None
    ) -> Masks:
        """All of the above for one image; part by part, so that memory does not grow with the prompts."""
        item = self.prepare(embedding, prompts, options, deadline)
        parts = [self.finish(part, self.forward([part])[0]) for part in self.split(item, None)]
        return self.merge(item, parts)


def _scaled_points(points: Float32Array, scale: Any) -> Float32Array:
    return np.concatenate((points[:, :2] * scale, points[:, 2:]), 1).astype(np.float32)
