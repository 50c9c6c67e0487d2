"""The checkpoints that have a name: where they come from, what they must hash to, where they are looked for. No torch.

The hashes are those of the published files. A name always means its hash here, wherever the file lies: other weights,
fine-tuned or rewritten, are a bundle of one's own (docs/bundles.md).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

Kind = Literal["detector", "segmenter"]

KINDS: tuple[Kind, ...] = ("detector", "segmenter")
CHECKPOINTS_VARIABLE = "TEXT2MASK_CHECKPOINTS"
EMBEDDED_NAME = "tiny"
EMBEDDED: dict[Kind, Path] = {kind: Path(__file__).parents[1] / EMBEDDED_NAME / kind for kind in KINDS}
"""The bundle folders that come with the package; their `bundle.json` names their hashes."""


class BundleError(ValueError):
    """Something about a model's name or files that a person can put right; the text says how."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An official weight file.

    Attributes:
        name: what users call it.
        kind: the part it plays.
        architecture: key of `pipeline.models.architectures.ARCHITECTURES`.
        file: its published file name.
        url: where `text2mask download` fetches it.
        sha256: of the file, lower-case hex.
        bytes: size of the file, or None where it is not known for certain.
        licence: of the weights, as their publisher states it.
    """

    name: str
    kind: Kind
    architecture: str
    file: str
    url: str
    sha256: str
    bytes: int | None
    licence: str


_GROUNDINGDINO = "https://github.com/IDEA-Research/GroundingDINO/releases/download"
_SAM = "https://dl.fbaipublicfiles.com/segment_anything"

CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            name="swint",
            kind="detector",
            architecture="groundingdino-swint-ogc",
            file="groundingdino_swint_ogc.pth",
            url=f"{_GROUNDINGDINO}/v0.1.0-alpha/groundingdino_swint_ogc.pth",
            sha256="3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799",
            bytes=693_997_677,
            licence="Apache-2.0",
        ),
        Checkpoint(
            name="swinb",
            kind="detector",
            architecture="groundingdino-swinb-cogcoor",
            file="groundingdino_swinb_cogcoor.pth",
            url=f"{_GROUNDINGDINO}/v0.1.0-alpha2/groundingdino_swinb_cogcoor.pth",
            sha256="46270f7a822e6906b655b729c90613e48929d0f2bb8b9b76fd10a856f3ac6ab7",
            bytes=None,
            licence="Apache-2.0",
        ),
        Checkpoint(
            name="vit_b",
            kind="segmenter",
            architecture="sam-vit-b",
            file="sam_vit_b_01ec64.pth",
            url=f"{_SAM}/sam_vit_b_01ec64.pth",
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            bytes=None,
            licence="Apache-2.0",
        ),
        Checkpoint(
            name="vit_l",
            kind="segmenter",
            architecture="sam-vit-l",
            file="sam_vit_l_0b3195.pth",
            url=f"{_SAM}/sam_vit_l_0b3195.pth",
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            bytes=None,
            licence="Apache-2.0",
        ),
        Checkpoint(
            name="vit_h",
            kind="segmenter",
            architecture="sam-vit-h",
            file="sam_vit_h_4b8939.pth",
            url=f"{_SAM}/sam_vit_h_4b8939.pth",
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            bytes=2_564_550_879,
            licence="Apache-2.0",
        ),
    )
}


def names(kind: Kind | None = None) -> list[str]:
    """The names that a model can be called by: those of `kind`, or all."""
    return [EMBEDDED_NAME, *(name for name, known in CHECKPOINTS.items() if kind in (None, known.kind))]


def unknown_name(name: str, known: list[str]) -> str:
    """The part of a message that says which name may have been meant."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def folders() -> list[Path]:
    """Where official files are looked for, in order; `text2mask download` writes to the first.

    That is the folder `TEXT2MASK_CHECKPOINTS`, where it is set, then the user's cache
    (`$XDG_CACHE_HOME/text2mask`, else `~/.cache/text2mask`).
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "text2mask"
    own = os.environ.get(CHECKPOINTS_VARIABLE)
    return [Path(own).expanduser(), cache] if own else [cache]


def find(checkpoint: Checkpoint) -> Path | None:
    """The first file of that name in `folders()`, unread, or None."""
    return next((path for folder in folders() if (path := folder / checkpoint.file).is_file()), None)


def locate(checkpoint: Checkpoint) -> Path:
    """As `find`. Raises BundleError where there is none, with the places and the command that fetches it."""
    path = find(checkpoint)
    if path is None:
        raise BundleError(absence(checkpoint))
    return path


def absence(*checkpoints: Checkpoint) -> str:
    """What a person whose machine lacks these files needs to know: where they were looked for, how to get them."""
    looked = ", ".join(str(folder / one.file) for one in checkpoints for folder in folders())
    return (
        f"The weights of {' and '.join(repr(one.name) for one in checkpoints)} are not on this machine. "
        f"Looked for: {looked}. Fetch them: text2mask download {'+'.join(one.name for one in checkpoints)}. Without a "
        f"network, copy {' and '.join(one.file for one in checkpoints)} into a folder and name that folder in "
        f"{CHECKPOINTS_VARIABLE}."
    )
