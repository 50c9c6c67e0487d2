"""What a job's workers need to know: models, what is asked of each image, limits. Made once by the driver."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from deployments.catalogue import OfferedDetector, OfferedSegmenter, catalogue
from deployments.fetch_settings import FetchSettings
from deployments.jobs.storage import StorageOptions
from deployments.settings import Settings, SettingsError
from pipeline.image import ImageLimits
from pipeline.prompt import Prompt
from pipeline.query import read_query
from pipeline.selection import SelectionOptions
from pipeline.stages import DecodeOptions, DetectRequest
from pipeline.tiling import TileSize, parse_tile


@dataclass(frozen=True, slots=True)
class Pool:
    """How many actors of one kind there are: as many as there is work and room for, within these."""

    least: int = 1
    most: int = 1

    @classmethod
    def parse(cls, text: str) -> Pool:
        """`"2"` or `"1:8"`. Raises SettingsError for anything else."""
        match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
        least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= least <= most:
            raise SettingsError(f"replicas {text!r}: give a number such as 2, or least:most such as 1:8")
        return cls(least, most)


@dataclass(frozen=True, slots=True)
class Pools:
    """The two kinds of worker."""

    detector: Pool = Pool()
    segmenter: Pool = Pool()


@dataclass(frozen=True, slots=True)
class Asked:
    """What one prompt asks for."""

    request: DetectRequest
    selection: SelectionOptions


@dataclass(frozen=True, slots=True)
class Plan:
    """Travels to every worker, and holds no secret.

    Attributes:
        model: what results call the pair.
        short_side: to which the detector resizes an image's shorter side, in pixels.
        fields: the arguments of `TextToMask.predict` that are the same for every image, but for those below.
        decode: None for boxes only.
        tile: see `pipeline.tiling.plan`.
    """

    model: str
    short_side: int
    detector: OfferedDetector
    segmenter: OfferedSegmenter
    fields: Mapping[str, Any]
    decode: DecodeOptions | None
    tile: Any
    limits: ImageLimits
    storage: StorageOptions
    fetch: FetchSettings

    @classmethod
    def make(
        cls, settings: Settings, storage: StorageOptions, fields: Mapping[str, Any], *, masks: bool = True
    ) -> Plan:
        """The plan of a job. `fields`: as `TextToMask.predict` takes them; the prompt is each row's own.

        Raises:
            SettingsError, BundleError: the models. StageError: a field.
        """
        offer = catalogue(settings)
        pair = offer.pairs[0]
        rest = dict(fields)
        multimask, tile = rest.pop("multimask", False), rest.pop("tile", None)
        read_query("anything", **rest)  # raises for what would be wrong whatever the prompt
        return cls(
            model=pair.name,
            short_side=pair.short_side,
            detector=offer.detectors[pair.detector],
            segmenter=offer.segmenters[pair.segmenter],
            fields=rest,
            decode=DecodeOptions(multimask) if masks else None,
            tile=None if tile is None else parse_tile(tile),
            limits=settings.limits.of_images(),
            storage=storage,
            fetch=settings.fetch,
        )

    def asked(self, prompt: str) -> Asked:
        """What a row's prompt, as JSON, asks for. Raises StageError."""
        return _asked(prompt, json.dumps(dict(self.fields)))

    def described(self, prompt: Prompt | None) -> dict[str, Any]:
        """What an answer depends on, for the manifest: the same here, the same there.

        Args:
            prompt: of all rows without one of their own.
        """
        detector, segmenter = self.detector, self.segmenter
        thresholds = {
            name: self.fields.get(name) if self.fields.get(name) is not None else getattr(detector.bundle, name)
            for name in ("box_threshold", "text_threshold")
        }
        known = {
            name: one.default for name, one in inspect.signature(read_query).parameters.items() if name != "prompt"
        }
        given = {name: value for name, value in (known | dict(self.fields)).items() if name not in thresholds}
        tile = {"size": self.tile.size, "overlap": self.tile.overlap} if isinstance(self.tile, TileSize) else self.tile
        return {
            "prompt": prompt,
            "model": self.model,
            "detector_sha256": detector.bundle.sha256,
            "segmenter_sha256": segmenter.bundle.sha256,
            **thresholds,
            **given,
            "multimask": self.decode is not None and self.decode.multimask,
            "masks": self.decode is not None,
            "tile": tile,
            "detector_precision": detector.deployment.precision,
            "detector_shapes": detector.deployment.shapes,
            "image_encoder_precision": segmenter.image_encoder.precision,
            "mask_decoder_precision": segmenter.mask_decoder.precision,
            "max_image_bytes": self.limits.max_bytes,
            "max_image_pixels": self.limits.max_pixels,
        }


@lru_cache(maxsize=1024)
def _asked(prompt: str, fields: str) -> Asked:
    return Asked(*read_query(json.loads(prompt), **json.loads(fields)))
