"""The scene generator keeps its promises; checked on pixels and by other code than its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.tiny import scenes, shapes


def draw(seed: int, height: int = 160, width: int = 224, batch: int = 24, **options: object) -> scenes.Scenes:
    return scenes.draw(batch, height, width, torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


def test_same_seed_same_scenes() -> None:
    first, second, other = draw(1), draw(1), draw(2)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.masks, second.masks)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize(("height", "width"), [(200, 200), (200, 600), (601, 203)])
def test_shapes_and_ranges(height: int, width: int) -> None:
    s = draw(3, height, width, batch=8)
    assert s.images.shape == (8, 3, height, width)
    assert s.masks.shape == (8, scenes.SLOTS, height, width)
    assert s.images.min() >= 0
    assert s.images.max() <= 255
    assert s.present.any(1).float().mean() > 0.9
    assert not s.masks[~s.present].any(), "what is not there has no pixels"


def test_masks_do_not_overlap_and_boxes_fit_them() -> None:
    s = draw(4)
    assert s.masks.sum(1).max() <= 1
    for mask, box in zip(s.masks[s.present].numpy(), s.boxes[s.present].numpy(), strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_objects_are_mostly_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    # What each object covers before others are drawn over it, taken on the way to the picture.
    covers: list[torch.Tensor] = []
    coverage = scenes._coverage

    def spy(*args: object, **options: object) -> torch.Tensor:
        covers.append(coverage(*args, **options))  # type: ignore[arg-type]
        return covers[-1]

    monkeypatch.setattr(scenes, "_coverage", spy)
    s = draw(5, 240, 300, batch=32)
    whole = (covers[-1] >= 0.5).sum((2, 3)).float()
    share = (s.masks.sum((2, 3)) / whole.clamp(min=1))[s.present]
    assert share.min() >= 0.58, "60 %, measured on another grid"
    assert share.max() == 1
    assert (share < 0.95).any(), "some objects overlap"


def test_objects_are_wholly_inside_and_of_the_stated_sizes() -> None:
    s = draw(5, 200, 260, batch=32, objects=1)
    border = torch.cat([s.masks[..., 0, :], s.masks[..., -1, :]], -1).any(-1) | torch.cat(
        [s.masks[..., :, 0], s.masks[..., :, -1]], -1
    ).any(-1)
    assert border[s.present].float().mean() <= 0.05, "an object may touch the border, never cross it"
    extent = (s.boxes[..., 2:] - s.boxes[..., :2]).amax(-1)[s.present]
    assert extent.min() >= 0.08 * 200
    assert extent.max() <= 0.62 * 200


def test_colours_are_near_their_reference_and_away_from_the_background() -> None:
    s = draw(6, batch=48)
    reference = torch.tensor(list(scenes.COLOURS.values()), dtype=torch.float32)
    strays = 0
    for b, k in s.present.nonzero().tolist():
        pixels = s.images[b][:, s.masks[b, k]]
        strays += int((pixels.median(1).values - reference[s.colours[b, k]]).abs().max() > 30 + 60)  # shade and noise
    assert strays <= 0.02 * int(s.present.sum())


def test_held_out_pairs() -> None:
    held = {(scenes.COLOUR_NAMES.index(c), scenes.SHAPES.index(s)) for c, s in scenes.HELD_OUT}
    assert len({c for c, _ in held}) == len({s for _, s in held}) == 8

    def pairs(s: scenes.Scenes) -> list[tuple[int, int]]:
        return list(zip(s.colours[s.present].tolist(), s.shapes[s.present].tolist(), strict=True))

    assert not held & set(pairs(draw(7, batch=200, held_out=False)))
    assert sum(pair in held for pair in pairs(draw(8, batch=64, held_out=True))) >= 50


@pytest.mark.parametrize("name", shapes.DISTANCES)
def test_shapes_fill_their_circle(name: str) -> None:
    axis = torch.linspace(-1.2, 1.2, 241)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    for a in (0.0, 0.5, 1.0):
        for b in (0.0, 0.5, 0.95):
            inside = shapes.DISTANCES[name](u[None], v[None], torch.tensor([[[a]]]), torch.tensor([[[b]]]))[0] < 0
            reach = torch.hypot(u, v)[inside].max()
            assert 0.85 <= reach <= 1.13, f"{name} reaches {reach:.2f} of its radius"
            assert inside.float().mean() * 2.4**2 > 0.3


def test_textured_backgrounds_occur() -> None:
    s = draw(9, batch=64, objects=1)
    spread = [s.images[b][:, ~s.masks[b].any(0)].std(1).mean().item() for b in range(64)]
    assert min(spread) < 8 < 25 < max(spread)
