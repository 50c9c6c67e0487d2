"""Colours of classes and of their instances. No torch."""

from __future__ import annotations

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

# Picked one after the other, each as far as possible (CIEDE2000) from all before it, among colours that stand out from
# black, white and grey: lightness 40 to 88, chroma 30 or more (the first ten: 60). Of the first 8 no two are closer
# than 24, of the first 40 than 13, of all than 12; people see differences from about 2.
_PALETTE = (
    0xE11E2D, 0x00F000, 0x0096FF, 0xFFB42D, 0xFF96FF, 0x961EFF, 0x788700, 0xA55A00,
    0xF00096, 0xFF875A, 0x00F0F0, 0x007869, 0x69B487, 0x0F5AC3, 0xE1E196, 0x9678B4,
    0xB4C3FF, 0x2DA5B4, 0xF096A5, 0x964B5A, 0x00781E, 0x78D2FF, 0xB4965A, 0x0FA500,
    0xF02DFF, 0xB4B400, 0x6978FF, 0x00F0A5, 0x963C96, 0xFFC396, 0xB4785A, 0x78692D,
    0x0078A5, 0xFF5A69, 0xE17800, 0x695A96, 0xD278B4, 0xE14B00, 0x96A569, 0xB487FF,
    0x87C33C, 0xA54B2D, 0x5A875A, 0xE10F5A, 0xFFC3F0, 0xB4F000, 0xA5E196, 0x00B4A5,
)  # fmt: skip
COLOURS = len(_PALETTE)
"""Classes that have a colour of their own; the next ones begin again."""

# Shares of white (positive) or black (negative) that make the other tones of a colour, by how light it is.
_TONES_OF_LIGHT, _TONES_OF_MIDDLE, _TONES_OF_DARK = (-0.35, -0.65), (0.5, -0.5), (0.4, 0.7)
TONES = 3


def class_colour(class_id: int) -> Colour:
    """The colour of a class: always the same, and far from those of other classes."""
    red, green, blue = _PALETTE[class_id % COLOURS].to_bytes(3, "big")
    return red, green, blue


def tone(colour: Colour, number: int) -> Colour:
    """A colour of the same hue, lighter or darker: number 0 is the colour itself, then come `TONES - 1` others."""
    if number % TONES == 0:
        return colour
    light = luminance(colour)
    shares = _TONES_OF_LIGHT if light > 0.4 else _TONES_OF_DARK if light < 0.18 else _TONES_OF_MIDDLE
    share = shares[number % TONES - 1]
    end = 255 if share > 0 else 0
    red, green, blue = (round(value + (end - value) * abs(share)) for value in colour)
    return red, green, blue


def ink(colour: Colour) -> str:
    """Black or white: what is easier to read on the colour, at a contrast of 4.5 (WCAG) or more."""
    return "black" if luminance(colour) > 0.179 else "white"


def luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2.2)."""
    linear = [v / 12.92 if (v := value / 255) <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
