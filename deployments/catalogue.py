"""Which models the app offers: every detector with every segmenter, and what the pairs are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from deployments.settings import DetectorEntry, SegmenterEntry, Settings, SettingsError, explain
from deployments.stage_settings import DetectorSettings, ImageEncoderSettings, MaskDecoderSettings, StageSettings
from pipeline.bundle import Bundle, check_weights, resolve, split_model_name
from pipeline.models.architectures import detector_architecture
from pipeline.models.registry import EMBEDDED_NAME


@dataclass(frozen=True, slots=True)
class OfferedDetector:
    bundle: Bundle
    deployment: DetectorSettings


@dataclass(frozen=True, slots=True)
class OfferedSegmenter:
    bundle: Bundle
    image_encoder: ImageEncoderSettings
    mask_decoder: MaskDecoderSettings


Offered = TypeVar("Offered", OfferedDetector, OfferedSegmenter)
S = TypeVar("S", bound=StageSettings)


@dataclass(frozen=True, slots=True)
class Pair:
    """What a request names. `card` is what `/v1/models` says of it; paths and hashes stay inside."""

    name: str
    detector: str
    segmenter: str
    aliases: tuple[str, ...]
    card: Mapping[str, Any]
    short_side: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The models on offer, by name. The first pair is the default."""

    detectors: Mapping[str, OfferedDetector]
    segmenters: Mapping[str, OfferedSegmenter]
    pairs: tuple[Pair, ...]

    def check_weights(self) -> None:
        """Read every weight file. Raises BundleError: one is not what its bundle says."""
        detectors = [one.bundle for one in self.detectors.values()]
        segmenters = [one.bundle for one in self.segmenters.values()]
        for bundle in detectors + segmenters:
            check_weights(bundle)


def catalogue(settings: Settings) -> Catalogue:
    """What `settings` offer; bundles are found, and not yet read.

    Raises:
        SettingsError: two models of one name, or a default or an alias that names no pair.
        BundleError: a model is not on this machine.
    """
    first, second = _default_parts(settings)
    detectors = _by_name(
        OfferedDetector(_absolute(resolve(entry.model, "detector")), _laid_over(settings.detector, entry.deployment))
        for entry in settings.detectors or (DetectorEntry(model=first),)
    )
    segmenters = _by_name(
        OfferedSegmenter(
            _absolute(resolve(entry.model, "segmenter")),
            _laid_over(settings.image_encoder, entry.image_encoder),
            _laid_over(settings.mask_decoder, entry.mask_decoder),
        )
        for entry in settings.segmenters or (SegmenterEntry(model=second),)
    )
    names = [(one, two) for one in detectors for two in segmenters]
    aliases = _aliases(settings, {f"{one}+{two}" for one, two in names})
    pairs = [_pair(detectors[one].bundle, segmenters[two].bundle, aliases, settings) for one, two in names]
    if settings.model is not None and settings.detectors + settings.segmenters:
        pairs.sort(key=lambda pair: settings.model not in (pair.name, *pair.aliases))  # stable: the default comes first
        if settings.model not in (pairs[0].name, *pairs[0].aliases):
            raise SettingsError(
                f"model: {settings.model!r} is none of {', '.join(sorted(pair.name for pair in pairs))}"
            )
    return Catalogue(detectors, segmenters, tuple(pairs))


def _default_parts(settings: Settings) -> tuple[str, str]:
    """The names for a list that is empty: those of `model`, which then is a pair and no alias."""
    if settings.detectors and settings.segmenters:
        return "", ""
    return split_model_name(settings.model or EMBEDDED_NAME)


def _laid_over(common: S, own: S | None) -> S:
    """`common` with what `own` says instead. Raises SettingsError where the two do not fit together."""
    if own is None:
        return common
    values = common.model_dump()
    for name, value in own.model_dump(exclude_unset=True).items():
        both = isinstance(value, dict) and isinstance(values[name], dict)
        values[name] = {**values[name], **value} if both else value
    try:
        return type(common).model_validate(values)
    except ValidationError as error:
        raise SettingsError(explain(error)) from None


def _by_name(offered: Iterable[Offered]) -> dict[str, Offered]:
    found: dict[str, Offered] = {}
    for one in offered:
        if one.bundle.name in found:
            raise SettingsError(f"{one.bundle.kind}s: two of them are called {one.bundle.name!r}")
        found[one.bundle.name] = one
    return found


def _aliases(settings: Settings, pairs: set[str]) -> dict[str, str]:
    aliases = dict(settings.aliases)
    for name in pairs:
        detector, _, segmenter = name.partition("+")
        if detector == segmenter:
            aliases.setdefault(detector, name)
    for alias, name in aliases.items():
        if name not in pairs:
            raise SettingsError(f"aliases.{alias}: {name!r} is none of {', '.join(sorted(pairs))}")
        if alias in pairs:
            raise SettingsError(f"aliases.{alias}: this is a pair's own name")
    return aliases


def _pair(detector: Bundle, segmenter: Bundle, aliases: Mapping[str, str], settings: Settings) -> Pair:
    name = f"{detector.name}+{segmenter.name}"
    return Pair(
        name=name,
        detector=detector.name,
        segmenter=segmenter.name,
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == name)),
        card={
            "detector": {
                "name": detector.name,
                "licence": detector.licence,
                "box_threshold": detector.box_threshold,
                "text_threshold": detector.text_threshold,
                "max_tokens": detector.max_tokens,
            },
            "segmenter": {"name": segmenter.name, "licence": segmenter.licence},
            "limits": settings.limits.model_dump(),
        },
        short_side=detector_architecture(detector.architecture).short_side,
    )


def _absolute(bundle: Bundle) -> Bundle:
    """`bundle` as a replica finds it, whose working directory is another one."""
    vocabulary = None if bundle.vocabulary is None else bundle.vocabulary.resolve()
    return replace(bundle, weights=bundle.weights.resolve(), vocabulary=vocabulary)
