"""Vary images for training: one geometric map moves image and truth together; photometric changes come after.

A geometric map is an array (H, W, 2) float32 that holds, for each pixel of the output, the yx of the input to sample.
Photometric functions take and return float32 images with intensities near [0, 1]. All randomness comes from `rng`.
"""

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from fiducial.coords import Matrix, image_center_yx, shift, similarity

GeometricMap = Float32[np.ndarray, "_ _ 2"]
Gray = Float32[np.ndarray, "_ _"]
Pyramid = tuple[UInt8[np.ndarray, "_ _"], ...]  # an image, and copies of half, a quarter, ... its size

TURNS_DEG = (0.0, 90.0, 180.0, 270.0)


def map_from_matrix(matrix: Matrix, size: tuple[int, int]) -> GeometricMap:
    """Sample a 3×3 transform from output to input pixels at every output pixel."""
    h, w = size
    y, x = np.mgrid[:h, :w].astype(np.float64)
    xyz = matrix @ np.stack([x.ravel(), y.ravel(), np.ones(h * w)])
    yx = (xyz[1::-1] / xyz[2]).T
    return yx.reshape(h, w, 2).astype(np.float32)


def move_map(matrix: Matrix, mapping: GeometricMap) -> GeometricMap:
    """Return the map that follows `mapping` and then the affine transform `matrix`."""
    linear, offset = matrix[1::-1, 1::-1], matrix[1::-1, 2]  # the same transform on (y, x)
    return (mapping @ linear.T + offset).astype(np.float32)


def resample(image: Shaped[np.ndarray, "h w"], mapping: GeometricMap, *, nearest: bool = False) -> Shaped[np.ndarray, "i j"]:
    """Sample an image along a map, reflecting it at its borders; `nearest` keeps labels whole."""
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.remap(image, mapping[..., 1], mapping[..., 0], how, borderMode=cv2.BORDER_REFLECT_101)


def build_pyramid(image: UInt8[np.ndarray, "_ _"], halved_from_px: float, levels: int | None = None) -> Pyramid:
    """Halve an image, by areas, while its shorter side is at least `halved_from_px`, to at most so many levels."""
    built = [image]
    while min(built[-1].shape) >= halved_from_px and len(built) != levels:
        h, w = built[-1].shape
        built.append(cv2.resize(built[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    return tuple(built)


def random_view(
    rng: np.random.Generator,
    source_size: tuple[int, int],
    size: tuple[int, int],
    center_yx: tuple[float, float],
    strength: float,
) -> Matrix:
    """Draw a transform from output to source pixels: a quarter turn, a mirror, and by `strength` scale and angle.

    At strength 0 output pixels are source pixels; at 1 the scale varies by ±25 % and the angle by ±45°. The output's
    center shows `center_yx`, moved so that as much as possible of the output lies inside the source.
    """
    scale = float(np.exp(rng.uniform(-0.22, 0.22) * strength))
    angle = float(rng.choice(TURNS_DEG) + rng.uniform(-45, 45) * strength)
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    half = [side * scale / 2 for side in size]
    center = [float(np.clip(c, h, s - h)) if s > 2 * h else s / 2 for c, h, s in zip(center_yx, half, source_size, strict=True)]
    if strength == 0:
        middle = image_center_yx(size)
        first = [min(max(round(c - m), 0), max(s - n, 0)) for c, m, s, n in zip(center, middle, source_size, size, strict=True)]
        center = [f + m for f, m in zip(first, middle, strict=True)]
    cy, cx = image_center_yx(size)
    return shift(center[0], center[1]) @ similarity(scale, angle) @ mirror @ shift(-cy, -cx)


def random_affine(rng: np.random.Generator, size: tuple[int, int], shift_px: float, angle_deg: float, stretch: float) -> Matrix:
    """Draw a small affine transform about the image's center, each part normally distributed with the given deviation."""
    dy, dx = rng.normal(0, shift_px, 2)
    linear = similarity(1.0, float(rng.normal(0, angle_deg)))
    linear[:2, :2] = linear[:2, :2] @ (np.eye(2) + rng.normal(0, stretch, (2, 2)))
    cy, cx = image_center_yx(size)
    return shift(cy + dy, cx + dx) @ linear @ shift(-cy, -cx)


def smooth_field(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Gray:
    """Draw a smooth random image of zero mean and unit deviation, about `cells` bumps wide."""
    h, w = size
    coarse = rng.normal(0, 1, (max(2, round(cells * h / max(h, w))) + 1, cells + 1)).astype(np.float32)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)


def smooth_warp(rng: np.random.Generator, size: tuple[int, int], amplitude_px: float) -> GeometricMap:
    """Draw a smooth displacement (H, W, 2) in pixels of deviation `amplitude_px`."""
    return np.stack([smooth_field(rng, size, 4) for _ in range(2)], axis=-1) * np.float32(amplitude_px)


def add_light_gradient(image: Gray, rng: np.random.Generator, strength: float) -> Gray:
    """Multiply by a plane that changes by up to `strength` from one side of the image to the other."""
    h, w = image.shape
    gy, gx = rng.uniform(-strength, strength, 2)
    plane = 1 + gy * np.linspace(-0.5, 0.5, h)[:, None] + gx * np.linspace(-0.5, 0.5, w)[None]
    return image * plane.astype(np.float32)


def add_noise(image: Gray, rng: np.random.Generator, sigma: float) -> Gray:
    """Add normal noise of deviation `sigma`."""
    return image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(sigma)


def blur(image: Gray, sigma_px: float) -> Gray:
    """Blur by a Gaussian; below 0.2 px the image is returned as it is."""
    return cv2.GaussianBlur(image, (0, 0), sigma_px) if sigma_px >= 0.2 else image


def change_gamma(image: Gray, gamma: float) -> Gray:
    """Raise intensities, clipped below at 0, to the power `gamma`."""
    return np.power(np.maximum(image, 0), np.float32(gamma))


def photograph(image: Gray, rng: np.random.Generator, strength: float) -> Gray:
    """Take a picture: light gradient, gamma, blur, gain, offset and noise, each drawn up to `strength` of its range."""
    out = add_light_gradient(image, rng, 0.5 * strength)
    out = change_gamma(out, float(np.exp(rng.uniform(-0.5, 0.5) * strength)))
    out = blur(out, float(rng.uniform(0, 1.6 * strength)))
    out = out * np.float32(1 + rng.uniform(-0.25, 0.15) * strength) + np.float32(rng.uniform(-0.12, 0.12) * strength)
    return add_noise(out, rng, float(rng.uniform(0, 0.1) * strength))


def invert(image: Gray) -> Gray:
    """Return the negative about intensity 1/2."""
    return 1 - image


def gradient_look(image: Gray, sigma_px: float) -> Gray:
    """Return the gradient's magnitude at a scale, as an edge-sensitive detector sees, brought to about [0, 1]."""
    smooth = cv2.GaussianBlur(image, (0, 0), sigma_px)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    magnitude = np.sqrt(dx * dx + dy * dy)
    return magnitude / max(float(np.quantile(magnitude[::2, ::2], 0.98)), 1e-6)


def random_tones(image: Gray, rng: np.random.Generator) -> Gray:
    """Map intensities through a random smooth curve from [0, 1] to [0, 1] that need not be monotone."""
    knots = rng.uniform(0, 1, 5)
    curve = np.interp(np.linspace(0, 1, 64), np.linspace(0, 1, 5), knots)
    curve = (curve - curve.min()) / max(float(np.ptp(curve)), 1e-6)
    return np.interp(np.clip(image, 0, 1), np.linspace(0, 1, 64), curve).astype(np.float32)


def charge(image: Gray, rng: np.random.Generator, strength: float) -> Gray:
    """Brighten and darken whole scan lines and some patches, as a specimen does that charges under the beam."""
    h, w = image.shape
    lines = cv2.resize(rng.normal(0, 1, (max(2, h // 6), 1)).astype(np.float32), (1, h), interpolation=cv2.INTER_LINEAR)
    bright = np.maximum(smooth_field(rng, (h, w), 3) - 0.5, 0)
    return image + np.float32(0.08 * strength) * lines + np.float32(rng.uniform(-0.2, 0.4) * strength) * bright


def scan_drift(rng: np.random.Generator, size: tuple[int, int], amplitude_px: float) -> GeometricMap:
    """Draw a displacement (H, W, 2) that is the same along a scan line: slow drift of deviation `amplitude_px`, and jitter."""
    h, w = size
    slow = cv2.resize(rng.normal(0, amplitude_px, (4, 2)).astype(np.float32), (2, h), interpolation=cv2.INTER_CUBIC)
    slow[:, 1] += rng.normal(0, 0.15 * amplitude_px, h)
    return np.broadcast_to(slow[:, None], (h, w, 2)).astype(np.float32)


def add_shot_noise(image: Gray, rng: np.random.Generator, sigma: float) -> Gray:
    """Add noise whose deviation grows with the root of the intensity, `sigma` at intensity 1."""
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return image + noise * np.sqrt(np.clip(image, 0.05, None)) * np.float32(sigma)


def add_speckle(image: Gray, rng: np.random.Generator, looks: float) -> Gray:
    """Multiply each pixel by a gamma variate of mean 1 and variance 1 / looks: the speckle of coherent imaging."""
    return image * rng.standard_gamma(looks, image.shape, dtype=np.float32) / np.float32(looks)
