"""Colours as people tell them apart: CIEDE2000 differences, by formulas of this test's own."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from pipeline.palette import COLOURS, TONES, class_colour, ink, luminance, tone

Array = np.ndarray[Any, Any]


def lab(colour: Any) -> Array:
    """sRGB 0..255 -> CIE L*a*b*, D65 (IEC 61966-2-1, CIE 15)."""
    c = np.asarray(colour, float) / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ c / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(first: Any, second: Any) -> float:
    """Difference of two L*a*b* colours (Sharma, Wu and Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25.0**7))
    c1, c2 = np.hypot(g * a1, b1), np.hypot(g * a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, g * a1)) % 360, np.degrees(np.arctan2(b2, g * a2)) % 360
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    h = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1
        - 0.17 * np.cos(np.radians(h - 30))
        + 0.24 * np.cos(np.radians(2 * h))
        + 0.32 * np.cos(np.radians(3 * h + 6))
        - 0.20 * np.cos(np.radians(4 * h - 63))
    )
    dl = (l2 - l1) / (1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    rotation = (
        -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    )
    return float(np.sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh))


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [  # of the 34 pairs that the paper publishes
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ],
)
def test_the_judge(first: Any, second: Any, difference: float) -> None:
    assert ciede2000(first, second) == pytest.approx(difference, abs=1e-4)


def smallest_difference(count: int) -> float:
    colours = [lab(class_colour(class_id)) for class_id in range(count)]
    return min(ciede2000(a, b) for a, b in combinations(colours, 2))


def test_classes_stay_apart() -> None:
    # About 2 is seen side by side; 10 is another colour at a glance.
    assert smallest_difference(8) >= 20
    assert smallest_difference(16) >= 18
    assert smallest_difference(40) >= 12


def test_a_class_keeps_its_colour() -> None:
    assert [class_colour(class_id) for class_id in (0, 1, 2)] == [(225, 30, 45), (0, 240, 0), (0, 150, 255)]
    assert class_colour(COLOURS + 3) == class_colour(3)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_classes_stand_out_from_black_grey_and_white(background: int) -> None:
    plain = lab((background,) * 3)
    assert min(ciede2000(lab(class_colour(class_id)), plain) for class_id in range(COLOURS)) >= 14


def test_tones_are_one_family() -> None:
    for class_id in range(COLOURS):
        colour = class_colour(class_id)
        tones = [lab(tone(colour, number)) for number in range(TONES)]
        np.testing.assert_array_equal(tones[0], lab(colour))
        assert min(ciede2000(a, b) for a, b in combinations(tones, 2)) >= 12
        hues = [np.degrees(np.arctan2(b, a)) for _, a, b in tones]
        assert max(abs((hue - hues[0] + 180) % 360 - 180) for hue in hues) <= 25


def test_text_is_readable_on_every_colour() -> None:
    for class_id in range(COLOURS):
        colour = class_colour(class_id)
        letters = {"black": 0.0, "white": 1.0}[ink(colour)]
        low, high = sorted([letters, luminance(colour)])
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.2, contrast of small text, level AA


def test_luminance() -> None:
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((119, 119, 119)) == pytest.approx(0.184, abs=5e-4)  # contrast with white: 4.48, as published
