"""Colours of image files as a viewer shows them: in sRGB, whatever colour space the file is in."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

from lightning.pytorch.utilities import rank_zero_info
from PIL import Image, ImageCms

_SRGB = 2.2  # its gamma, nearly
_SAME_GAMMA = 0.05  # what viewers take for rounding
_said: set[str] = set()


def say_once(kind: str, text: str) -> None:
    """Log a line once in a process, however many images it holds for."""
    if kind not in _said:
        _said.add(kind)
        rank_zero_info(text)


def in_srgb(image: Image.Image) -> Image.Image:
    """Convert an image of 8 bits to sRGB by the colour profile or the gamma that is in its file, as a viewer does.

    An image without either is taken as it is, one with a damaged profile too, which the log says once. CMYK without a
    profile, which viewers show in different ways, is converted by formula.

    Args:
        image: of any mode of 8 bits.

    Returns:
        The image, without profile if it had one; grey ones stay grey and transparent ones transparent.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        if image.mode == "CMYK":
            say_once("CMYK", f"data: {image_name(image)} is CMYK without a colour profile; its colours are approximate")
        return _by_gamma(image)
    image = _without_palette(image)
    transform = _to_srgb(bytes(profile), image.mode)
    if isinstance(transform, str):
        say_once(
            "profile", f"data: {image_name(image)}: its colour profile cannot be used and is left out ({transform})"
        )
    seen = ImageCms.applyTransform(image, transform) if isinstance(transform, ImageCms.ImageCmsTransform) else image
    if seen is None or seen is image:
        seen = image.copy()
    if image.mode in ("L", "LA") and seen.mode != image.mode:
        seen = seen.convert(image.mode)
    seen.info.pop("icc_profile", None)  # once, not twice
    return seen


def _by_gamma(image: Image.Image) -> Image.Image:
    """Bring a PNG whose gamma is another than that of sRGB to it; an sRGB mark in the file counts more."""
    gamma = image.info.get("gamma")
    exponent = 1.0 if not gamma or "srgb" in image.info else 1 / (_SRGB * gamma)
    if abs(exponent - 1) < _SAME_GAMMA:
        return image
    image = _without_palette(image)
    curve = [round(255 * (value / 255) ** exponent) for value in range(256)]
    curves = [list(range(256)) if band == "A" else curve for band in image.getbands()]
    seen = image.point([value for one in curves for value in one])
    seen.info.pop("gamma", None)
    return seen


def _without_palette(image: Image.Image) -> Image.Image:
    return image.convert("RGBA" if "transparency" in image.info else "RGB") if image.mode == "P" else image


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | str | None:
    """Return the transform of a profile; None if it changes nothing, and the reason if there is none."""
    outputs = {"L": "RGB", "RGB": "RGB", "RGBA": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "LAB": "RGB"}
    if mode not in outputs:
        return None
    try:
        given = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(given).lower():
            return None
        return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, outputs[mode])
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return " ".join(str(error).split()) or type(error).__name__


def image_name(image: Image.Image) -> str:
    """Return the file that an image was opened from, for messages."""
    return str(getattr(image, "filename", "") or "an image")
