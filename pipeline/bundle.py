"""A bundle: one detector or segmenter, as architecture + weight file + hash (+ vocabulary and defaults).

`resolve` turns a name or a folder into a `Bundle` without reading weights; `load_weights` checks the file's SHA-256 and
then fills a model, strictly. Nothing here fetches anything: that is `pipeline.models.download`. No torch until weights
are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.models import bundle_file
from pipeline.models.architectures import ARCHITECTURES, BertArchitecture, DetectorArchitecture
from pipeline.models.registry import (
    CHECKPOINTS,
    EMBEDDED,
    EMBEDDED_NAME,
    BundleError,
    Checkpoint,
    Kind,
    locate,
    names,
    unknown_name,
)
from pipeline.models.weights import check_weights, load_state_dict, load_weights

__all__ = ["Bundle", "BundleError", "check_weights", "load_state_dict", "load_weights", "resolve", "split_model_name"]

OFFICIAL_VOCABULARY = Path(__file__).parent / "models" / "bert-base-uncased-vocab.txt"


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model's files and defaults, found but not yet read.

    Attributes:
        name: what answers call it.
        kind: detector or segmenter.
        architecture: key of `pipeline.models.architectures.ARCHITECTURES`.
        weights: a safetensors file, or one in the official `.pth` format.
        sha256: what `weights` must hash to, lower-case hex.
        vocabulary: WordPiece vocabulary of a detector; None for a segmenter.
        box_threshold, text_threshold: a detector's default thresholds, 0 to 1.
        label_rule: how a box gets its class.
        max_tokens: a detector's caption budget, with `[CLS]`, `[SEP]` and each `.`.
        licence: of the weights.
    """

    name: str
    kind: Kind
    architecture: str
    weights: Path
    sha256: str
    vocabulary: Path | None = None
    box_threshold: float = 0.3
    text_threshold: float = 0.25
    label_rule: str = "span_mean"
    max_tokens: int = 256
    licence: str = "unstated"


def split_model_name(model: str) -> tuple[str, str]:
    """`"swint+vit_b"` -> `("swint", "vit_b")`; `"tiny"` -> `("tiny", "tiny")`. Raises BundleError for other forms."""
    parts = model.split("+")
    if parts == [EMBEDDED_NAME]:
        return EMBEDDED_NAME, EMBEDDED_NAME
    if len(parts) != 2 or not all(parts):
        hint = unknown_name(model, [EMBEDDED_NAME]) if len(parts) == 1 else ""
        raise BundleError(
            f"{model!r} does not name a model; {hint}it takes a detector and a segmenter, as in 'swint+vit_b', or "
            f"{EMBEDDED_NAME!r}. Paths that hold a '+' go in one by one, as detector= and segmenter=."
        )
    return parts[0], parts[1]


def resolve(spec: str | Path, kind: Kind) -> Bundle:
    """Find a bundle; its weights are not read.

    Args:
        spec: a registry name (str only); the path of a bundle folder; or the path of an official weight file under its
            published name, which is held to the registry's hash.
        kind: the part it is to play.

    Raises:
        BundleError: it is not there, not of that kind, or its `bundle.json` is not as it must be.
    """
    if spec == EMBEDDED_NAME:
        return _from_folder(EMBEDDED[kind], kind)
    if isinstance(spec, str) and spec in CHECKPOINTS:
        checkpoint = _of_kind(CHECKPOINTS[spec], kind)
        return _official(checkpoint, locate(checkpoint))
    path = Path(spec).expanduser()
    if path.is_dir() and str(spec):
        return _from_folder(path, kind)
    if path.is_file():
        return _from_file(path, kind)
    raise BundleError(
        f"{str(spec)!r} is neither a {kind}'s name nor the folder of a bundle; {unknown_name(str(spec), names(kind))}"
        f"the names are {', '.join(names(kind))}."
    )


def _of_kind(checkpoint: Checkpoint, kind: Kind) -> Checkpoint:
    if checkpoint.kind != kind:
        raise BundleError(f"{checkpoint.name!r} is a {checkpoint.kind}; the {kind}s are {', '.join(names(kind))}.")
    return checkpoint


def _official(checkpoint: Checkpoint, weights: Path) -> Bundle:
    return Bundle(
        name=checkpoint.name,
        kind=checkpoint.kind,
        architecture=checkpoint.architecture,
        weights=weights,
        sha256=checkpoint.sha256,
        vocabulary=OFFICIAL_VOCABULARY if checkpoint.kind == "detector" else None,
        licence=checkpoint.licence,
    )


def _from_file(path: Path, kind: Kind) -> Bundle:
    for checkpoint in CHECKPOINTS.values():
        if checkpoint.file == path.name:
            return _official(_of_kind(checkpoint, kind), path)
    raise BundleError(f"{path} is not one of the published files; to use weights of your own, see docs/bundles.md.")


def _from_folder(folder: Path, kind: Kind) -> Bundle:
    content = bundle_file.read(folder)
    if content["kind"] != kind:
        raise BundleError(f"{folder} is a {content['kind']}, and a {kind} is wanted.")
    holds, meaning = bundle_file.CHECKS["name"]
    if not holds(content.setdefault("name", folder.resolve().name)):
        raise BundleError(f"{folder}: the folder's name does not do as a name ({meaning}); give bundle.json a 'name'.")
    content["sha256"] = content["sha256"].lower()
    _keep_registry_names(content, folder)
    content["weights"] = bundle_file.inside(folder, content["weights"], "weights")
    if content["weights"].suffix not in bundle_file.WEIGHT_SUFFIXES:
        raise BundleError(f"{content['weights']} must end in {' or '.join(bundle_file.WEIGHT_SUFFIXES)}.")
    architecture = ARCHITECTURES[content["architecture"]]
    if isinstance(architecture, DetectorArchitecture):
        _complete_text_side(content, architecture.bert, folder)
    return Bundle(**content)


def _complete_text_side(content: dict[str, Any], bert: BertArchitecture, folder: Path) -> None:
    if "vocabulary" in content:
        content["vocabulary"] = bundle_file.inside(folder, content["vocabulary"], "vocabulary")
    elif bert.vocab_size == BertArchitecture().vocab_size:
        content["vocabulary"] = OFFICIAL_VOCABULARY
    else:
        raise BundleError(f"{folder / 'bundle.json'} lacks vocabulary, which {content['architecture']!r} needs.")
    longest = min(bundle_file.MAX_TOKENS, bert.max_position_embeddings)
    if content.setdefault("max_tokens", longest) > longest:
        raise BundleError(f"{folder / 'bundle.json'}: 'max_tokens' is at most {longest} for this architecture.")


def _keep_registry_names(content: dict[str, Any], folder: Path) -> None:
    """A name of the registry means the registry's hash: nobody else's weights answer to it."""
    name = content["name"]
    known = {checkpoint.name: checkpoint.sha256 for checkpoint in CHECKPOINTS.values()}
    if name == EMBEDDED_NAME and folder.resolve() != EMBEDDED[content["kind"]].resolve():
        known[name] = bundle_file.read(EMBEDDED[content["kind"]])["sha256"].lower()
    if name in known and content["sha256"] != known[name]:
        raise BundleError(f"{folder}: the name {name!r} is taken by other weights; give bundle.json a name of its own.")
