"""Fields of a request -> what the ingress is asked for."""

from __future__ import annotations

from deployments.http.mask_schemas import MasksFields
from deployments.http.schemas import DetectFields, SegmentFields, TileItem, plain_prompt
from deployments.ingress import MaskOrder, Order
from pipeline.formats.low_res import read_low_res
from pipeline.mask_prompts import parse_mask_prompts
from pipeline.query import read_query
from pipeline.stages import DecodeOptions
from pipeline.tiling import TileSize


def order_of(fields: DetectFields) -> Order:
    """What the stages are asked for; masks only where the fields are of `/v1/segment`.

    Raises StageError for what concerns several fields, or a class without text.
    """
    detect, selection = read_query(
        plain_prompt(fields.prompt),
        mode=fields.mode,
        negative_prompt=None if fields.negative_prompt is None else plain_prompt(fields.negative_prompt),
        box_threshold=fields.box_threshold,
        text_threshold=fields.text_threshold,
        nms=fields.nms,
        nms_threshold=fields.nms_threshold,
        negative_iou=fields.negative_iou,
        min_area=fields.min_area,
        max_area=fields.max_area,
        max_detections=fields.max_detections,
        raw=fields.raw,
    )
    decode = None
    if isinstance(fields, SegmentFields) and fields.masks != "none":
        decode = DecodeOptions(multimask=fields.multimask)
    return Order(
        detect=detect,
        selection=selection,
        decode=decode,
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
