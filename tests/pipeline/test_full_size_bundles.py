"""Full-size models, saved in the official format, come back tensor by tensor; under a published name: refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.bundle import BundleError, load_weights, resolve
from pipeline.models import groundingdino_build, sam
from pipeline.models.architectures import detector_architecture, segmenter_architecture
from pipeline.models.registry import CHECKPOINTS

EXTRA = {"label_enc.weight": torch.zeros(2001, 256), "bert.embeddings.position_ids": torch.arange(512)[None]}


def swint() -> nn.Module:
    return groundingdino_build.build(detector_architecture("groundingdino-swint-ogc"))


def vit_b() -> nn.Module:
    model: nn.Module = sam.build(segmenter_architecture("sam-vit-b"))
    return model


def as_published_detector(state: dict[str, Tensor]) -> object:
    return {"model": {f"module.{key}": tensor for key, tensor in (state | EXTRA).items()}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "build", "publish"),
    [("swint", swint, as_published_detector), ("vit_b", vit_b, dict)],
    ids=["swint", "vit_b"],
)
def test_full_size(
    name: str,
    build: Callable[[], nn.Module],
    publish: Callable[[dict[str, Tensor]], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = CHECKPOINTS[name]
    source, target = build(), build()
    file = tmp_path / checkpoint.file
    torch.save(publish(source.state_dict()), file)
    content = {
        "kind": checkpoint.kind,
        "architecture": checkpoint.architecture,
        "weights": checkpoint.file,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "name": f"own-{name}",
    }
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    load_weights(target, resolve(tmp_path, checkpoint.kind))
    loaded = target.state_dict()
    for key, tensor in source.state_dict().items():
        assert torch.equal(loaded[key], tensor), key
    monkeypatch.setenv("TEXT2MASK_CHECKPOINTS", str(tmp_path))
    with pytest.raises(BundleError, match=f"is not the file that '{name}' means"):
        load_weights(target, resolve(name, checkpoint.kind))
    file.unlink()  # hundreds of megabytes that pytest would keep
