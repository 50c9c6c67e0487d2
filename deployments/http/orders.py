"""Fields of a request -> what the ingress is asked for."""

from __future__ import annotations

from deployments.http.mask_schemas import MasksFields
from deployments.http.schemas import SegmentFields, TileItem, plain_prompt
from deployments.ingress import MaskOrder, Order
from pipeline.formats.low_res import read_low_res
from pipeline.mask_prompts import parse_mask_prompts
from pipeline.prompt import parse_classes
from pipeline.selection import SelectionOptions
from pipeline.stages import DecodeOptions, DetectRequest, TextClass
from pipeline.tiling import TileSize


def order_of(fields: SegmentFields) -> Order:
    """What the stages are asked for. Raises StageError for a prompt without a class."""
    negatives: tuple[TextClass, ...] = ()
    if fields.negative_prompt is not None:
        negatives = parse_classes(plain_prompt(fields.negative_prompt), fields.mode, param="negative_prompt")
    return Order(
        detect=DetectRequest(
            classes=parse_classes(plain_prompt(fields.prompt), fields.mode),
            negatives=negatives,
            box_threshold=fields.box_threshold,
            text_threshold=fields.text_threshold,
            top_k=fields.max_detections if fields.raw else None,
        ),
        selection=SelectionOptions(
            nms="off" if fields.raw else fields.nms,
            nms_threshold=fields.nms_threshold,
            negative_iou=fields.negative_iou,
            min_area=fields.min_area,
            max_area=fields.max_area,
            max_detections=fields.max_detections,
        ),
        decode=None if fields.masks == "none" else DecodeOptions(multimask=fields.multimask),
        tile=TileSize(fields.tile.size, fields.tile.overlap) if isinstance(fields.tile, TileItem) else fields.tile,
    )


def mask_order_of(fields: MasksFields) -> MaskOrder:
    """The same without text. Raises StageError for prompts that may not be."""
    options = DecodeOptions(fields.multimask, fields.low_res, alternatives=fields.multimask)
    earlier = None
    if fields.mask_input is not None:
        earlier = [
            read_low_res(one.model_dump(), f"mask_input[{number}]") for number, one in enumerate(fields.mask_input)
        ]
    return MaskOrder(parse_mask_prompts(fields.boxes, fields.points, earlier, options), options)
