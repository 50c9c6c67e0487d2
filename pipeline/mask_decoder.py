"""SAM's prompt encoder and mask decoder: an embedding and prompts in, finished masks out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam

from pipeline.bundle import Bundle, load_weights
from pipeline.decoder_items import DecoderItem, LowResolution, Prompt, decoder_item
from pipeline.errors import StageError
from pipeline.models import sam as sam_model
from pipeline.models import sam_decoder, transfer
from pipeline.models.architectures import SegmenterArchitecture, segmenter_architecture
from pipeline.models.precision import DTYPES, Precision
from pipeline.models.sam_upsampling import full_size, packed, packed_shape, unpacked
from pipeline.stages import DecodeOptions, Embedding, MaskPrompts, Masks

__all__ = ["DecoderItem", "LowResolution", "MaskDecoder", "Prompt"]

_MAX_PROMPTS = 16  # boxes in one pass: at official sizes they take 0.6 GB
_POINTS_LIKE_A_PROMPT = 100  # points of an instance that take as much as itself, by their attention maps
_POINTS_COST = 50  # points of an instance that take as much time as its box
_PART = 192  # low-resolution masks to keep at a time: 50 MB at official sizes
_PART_BYTES = 2**27  # of masks at full size that come from a device as bits


class MaskDecoder:
    """Decodes masks. `prepare` and `finish` are thread-safe; one thread at a time in `forward`.

    Args:
        model: an official `Sam`, as `pipeline.models.sam.build` makes it; its image encoder is not used.
        arch: its hyper-parameters.
        device: where the model runs.
        precision: of its products; prompts, sums and masks at full size are float32.
        masks_on_device: make the masks there, all of a pass at once; None: unless it is a CPU.
        weights: SHA-256 of the model's; an embedding by others is refused.
    """

    def __init__(
        self,
        model: Sam,
        arch: SegmenterArchitecture,
        device: str = "cpu",
        precision: Precision = "float32",
        masks_on_device: bool | None = None,
        weights: str = "",
    ) -> None:
        self.weights = weights
        self.prompt_encoder = model.prompt_encoder.to(device).eval()
        self.decoder = model.mask_decoder.to(device).eval()
        self.arch = arch
        self.device = device
        self.dtype = DTYPES[precision]
        self.masks_on_device = device != "cpu" if masks_on_device is None else masks_on_device

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, *, device: str = "cpu", threads: int | None = None, precision: Precision = "float32"
    ) -> MaskDecoder:
        """Builds the model and loads the bundle's weights; `threads` sets torch's, process-wide. Raises BundleError."""
        if threads is not None:
            torch.set_num_threads(threads)
        arch = segmenter_architecture(bundle.architecture)
        model = sam_model.build(arch)
        load_weights(model, bundle)
        return cls(model, arch, device, precision, weights=bundle.sha256)

    def prepare(
        self, embedding: Embedding, prompts: MaskPrompts, options: DecodeOptions, deadline: float | None = None
    ) -> DecoderItem:
        """Checks the prompts and brings them into the model's frame (`ResizeLongestSide.apply_coords`).

        An instance with a box and an empty list of points counts as one with a box alone, as it does to SAM.

        Raises StageError `invalid_value` for prompts of unequal number, wrong shapes, or none; `other_weights` for an
        embedding by others, as there is while one model of a service takes the place of another.
        """
        if embedding.weights and self.weights and embedding.weights != self.weights:
            raise StageError("other_weights", "the image was encoded with other weights than the mask decoder's")
        return decoder_item(embedding, prompts, options, deadline, self.arch)

    def batch_key(self, item: DecoderItem) -> None:
        """Any items share a batch: prompts of different images and layouts are sorted out in `forward`."""
        return

    def cost(self, item: DecoderItem) -> int:
        """Low-resolution masks to keep, and one more for every 50 points of an instance."""
        return sum(_prompt_cost(item, prompt) for prompt in item.prompts)

    @torch.inference_mode()
    def forward(self, batch: Sequence[DecoderItem]) -> list[LowResolution]:
        """Low-resolution masks of every item's prompts, in their order."""
        answers = [self._unanswered(item) for item in batch]
        embeddings = transfer.stacked([item.embedding.features for item in batch], self.device)
        groups: dict[tuple[int, bool, bool], list[tuple[int, int]]] = {}
        for image, item in enumerate(batch):
            for number, prompt in enumerate(item.prompts):
                groups.setdefault(prompt.layout, []).append((image, number))
        for (points, _, _), members in groups.items():
            most = max(1, _MAX_PROMPTS * _POINTS_LIKE_A_PROMPT // (_POINTS_LIKE_A_PROMPT + points))
            for start in range(0, len(members), most):
                self._decode(batch, embeddings, members[start : start + most], answers)
        return answers

    def _unanswered(self, item: DecoderItem) -> LowResolution:
        shape, side = (len(item.prompts), item.depth), 4 * self.arch.embedding_size
        scores = np.empty(shape, np.float32)
        logits = np.empty((*shape, side, side), np.float32)
        if not self.masks_on_device:
            return LowResolution(logits, scores)
        bits = np.empty((*shape, *packed_shape(item.embedding)), np.uint8)
        return LowResolution(logits if item.options.low_res else None, scores, bits)

    def _decode(
        self,
        batch: Sequence[DecoderItem],
        embeddings: torch.Tensor,
        members: Sequence[tuple[int, int]],
        answers: Sequence[LowResolution],
    ) -> None:
        prompts = [batch[image].prompts[number] for image, number in members]

        def stacked(values: list[Any]) -> torch.Tensor | None:
            return None if values[0] is None else transfer.stacked(values, self.device)

        points, masks = stacked([p.points for p in prompts]), stacked([p.mask for p in prompts])
        sparse, dense = self.prompt_encoder(
            points=None if points is None else (points[..., :2], points[..., 2]),
            boxes=stacked([p.box for p in prompts]),
            masks=None if masks is None else masks[:, None],
        )
        index = transfer.to_device(torch.tensor([image for image, _ in members]), self.device)
        lower = torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32)
        with lower:
            logits, scores = sam_decoder.predict_masks(
                self.decoder, embeddings, index, self.prompt_encoder.get_dense_pe(), sparse, dense
            )
        multimask = transfer.to_device(torch.tensor([batch[i].options.multimask for i, _ in members]), self.device)
        order = scores[:, 1:].argsort(dim=1, descending=True, stable=True) + 1  # 0 is the single mask
        chosen = torch.where(multimask[:, None], order, 0)[:, : max(batch[image].depth for image, _ in members)]
        row = torch.arange(len(members), device=self.device)[:, None]
        self._send(batch, members, logits[row, chosen].float(), scores[row, chosen].float(), answers)

    def _send(
        self,
        batch: Sequence[DecoderItem],
        members: Sequence[tuple[int, int]],
        logits: torch.Tensor,
        scores: torch.Tensor,
        answers: Sequence[LowResolution],
    ) -> None:
        """`nxKx4Sx4S` and `nxK` into the answers; all that a pass has made comes to the host at once."""
        leaving = {"scores": scores}
        if any(answers[image].logits is not None for image, _ in members):
            leaving["logits"] = logits
        if self.masks_on_device:
            owners = groupby(enumerate(members), key=lambda member: member[1][0])
            rows = {image: [row for row, _ in group] for image, group in owners}  # each image's lie side by side
            leaving["bits"] = torch.cat(
                [
                    packed(
                        logits[own[0] : own[-1] + 1, : batch[image].depth].flatten(0, 1),
                        batch[image].embedding,
                        self.arch.image_size,
                    ).flatten()
                    for image, own in rows.items()
                ]
            )
        sent = dict(zip(leaving, transfer.to_host(*leaving.values()), strict=True))
        start = 0
        for row, (image, number) in enumerate(members):
            answer, depth = answers[image], batch[image].depth
            answer.scores[number] = sent["scores"][row, :depth]
            if answer.logits is not None:
                answer.logits[number] = sent["logits"][row, :depth]
            if answer.bits is not None:
                own = answer.bits[number]
                own[:] = sent["bits"][start : start + own.size].reshape(own.shape)
                start += own.size

    def finish(self, item: DecoderItem, raw: LowResolution) -> Masks:
        """Upsamples, thresholds and encodes the masks one at a time: no dense `N x H x W` array is ever made.

        Raises StageError `deadline_exceeded` as soon as it is: a thousand masks of a large image take minutes.
        """
        each = [self._finished(item, raw, number) for number in range(len(item.prompts))]
        return Masks(
            rles=tuple(one.rles[0] for one in each),
            mask_scores=raw.scores[:, 0],
            areas=np.array([one.areas[0] for one in each], np.int32),
            low_res=raw.logits[:, 0] if item.options.low_res and raw.logits is not None else None,
            alternatives=tuple(each) if item.depth > 1 else None,
        )

    def _finished(self, item: DecoderItem, raw: LowResolution, number: int) -> Masks:
        """All masks of one prompt."""
        made = []
        for one in range(item.depth):
            if item.deadline is not None and time.time() >= item.deadline:
                raise StageError("deadline_exceeded", "the request's time was over before all masks were made")
            if raw.bits is not None:
                made.append(unpacked(raw.bits[number, one], item.embedding))
            elif raw.logits is not None:
                made.append(full_size(raw.logits[number, one], item.embedding, self.arch.image_size))
        areas = np.array([area for _, area in made], np.int32)
        logits = raw.logits[number] if item.options.low_res and raw.logits is not None else None
        return Masks(tuple(rle for rle, _ in made), raw.scores[number], areas, logits)

    def split(self, item: DecoderItem, max_cost: int | None) -> list[DecoderItem]:
        """Items of at most `max_cost` each, if one prompt's cost does not exceed it."""
        most = _PART if max_cost is None else max_cost
        if self.masks_on_device:
            most = min(most, _PART_BYTES // math.prod(packed_shape(item.embedding)))
        starts, cost = [0], 0
        for number, prompt in enumerate(item.prompts):
            cost += _prompt_cost(item, prompt)
            if cost > most and number > starts[-1]:
                starts.append(number)
                cost = _prompt_cost(item, prompt)
        if len(starts) == 1:
            return [item]
        ends = (*starts[1:], len(item.prompts))
        return [replace(item, prompts=item.prompts[a:b]) for a, b in zip(starts, ends, strict=True)]

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


def _prompt_cost(item: DecoderItem, prompt: Prompt) -> int:
    return item.depth + (0 if prompt.points is None else len(prompt.points) // _POINTS_COST)
