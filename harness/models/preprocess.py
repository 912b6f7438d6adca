"""From encoded image bytes to the pixel tensor that an encoder takes."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.schema import Encoder, HarnessError, grid_of
from harness.storage.intake import open_image

CANVAS = 8192
"""Side of the largest square that is padded as it is; larger ones would take gigabytes."""
ASPECT = 1000
"""How much longer than wide an image may be whose short side a processor will enlarge."""


def decode_image(encoded: bytes, aspect: int | None = None) -> Image.Image:
    """PNG, JPEG, ... bytes -> RGB image. What is too large (see `intake.open_image`), or more than `aspect`
    times longer than wide, is refused by its header, before anything is decoded."""
    with open_image(encoded) as image:
        long, short = max(image.size), min(image.size)
        if aspect is not None and long > aspect * short:
            raise HarnessError(f"image of {image.width} x {image.height} px: more than {aspect} times longer than wide")
        return image.convert("RGB")


def square(image: Image.Image, resolution: int, fill: tuple[int, int, int]) -> np.ndarray:
    """Pad to a square with `fill`, as FastVLM and LLaVA do, and resize (bicubic, antialiased) -> (R, R, 3) uint8.

    An image that is longer than `CANVAS`, and than the result, is first made that long: padded as it is, one of
    60,000 x 100 px would be a square of 10 GB. Others are resized once, after they were padded.
    """
    side, most = max(image.size), max(CANVAS, resolution)
    if side > most and image.size != (side, side):
        width, height = (max(1, round(one * most / side)) for one in image.size)
        image, side = image.resize((width, height), Image.Resampling.BICUBIC), most
    if image.size != (side, side):
        canvas = Image.new("RGB", (side, side), fill)
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = canvas
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC))


def fill_of(encoder: Encoder) -> tuple[int, int, int]:
    """The encoder's mean colour, with which images are padded; 0..255."""
    red, green, blue = (round(255 * channel) for channel in encoder.mean)
    return red, green, blue


def normalise(pixels: Tensor, encoder: Encoder) -> Tensor:
    """uint8 (B, R, R, 3) -> float32 (B, 3, R, R) in the encoder's normalisation."""
    mean = torch.tensor(encoder.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(encoder.std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.permute(0, 3, 1, 2).float().div_(255.0) - mean) / std


def pixel_tensor(image: bytes | Image.Image, encoder: Encoder, resolution: int, tiles: int = 1) -> Tensor:
    """An image, stored or decoded -> (tiles, 3, R, R): decode, pad to a square with the mean colour, resize, normalise.

    Several tiles are AnyRes' (LLaVA-NeXT): the whole at resolution R first, then, row by row, the squares of a grid
    that covers it at g times R.
    """
    fill = fill_of(encoder)
    picture = decode_image(image) if isinstance(image, bytes) else image.convert("RGB")
    pieces = [square(picture, resolution, fill)]
    if tiles > 1:
        grid = grid_of(tiles)
        large = square(picture, grid * resolution, fill)
        rows = large.reshape(grid, resolution, grid, resolution, 3).swapaxes(1, 2)
        pieces += [*rows.reshape(-1, resolution, resolution, 3)]
    return normalise(torch.from_numpy(np.stack(pieces)), encoder)
