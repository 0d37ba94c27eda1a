"""Find points, and register images, as people do today: SIFT, ORB, Harris, AKAZE, and points that are placed at random.

Each finder returns its `most` best points by descending response, each place once. Thresholds are low enough that 240 × 240 px
hold hundreds. Registration is by points matched in both directions that pass the ratio test, and MAGSAC++; the model is affine,
since OpenCV's estimator of similarities (`estimateAffinePartial2D`) does not know MAGSAC++.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from fiducial.coords import Matrix

PLENTY = 20_000  # points that SIFT, ORB and AKAZE may return before the best are taken
SIFT_CONTRAST, ORB_FAST, ORB_EDGE_PX, AKAZE_LEAST = 0.005, 5, 16, 1e-5
HARRIS_K, HARRIS_BLOCK_PX, HARRIS_APART_PX, HARRIS_LEAST = 0.04, 3, 3, 1e-6
MATCHED_POINTS, RATIO, MAGSAC_PX = 4000, 0.8, 3.0
MAGSAC_TRIALS, MAGSAC_SURE = 10_000, 0.999
ACCEPTED_INLIERS = 10  # below which an answer of SIFT or ORB is not accepted

Picture = UInt8[np.ndarray, "h w"]
Points = Float64[np.ndarray, "n 2"]
Find = Callable[[Picture, int], Points]


@dataclass(frozen=True)
class Answer:
    """What a method says of a pair: a transform of (x, y, 1) or None, whether to trust it, and its probability, NaN without."""

    moving_to_fixed: Matrix | None
    accepted: bool
    score: float


def find_features(detector: cv2.Feature2D, image: Picture, most: int) -> Points:
    """Return the best keypoints of one of OpenCV's detectors."""
    found = sorted(detector.detect(image, None), key=lambda point: -point.response)
    places = dict.fromkeys((round(point.pt[1], 2), round(point.pt[0], 2)) for point in found)
    return np.array(list(places)[:most], dtype=np.float64).reshape(-1, 2)


def find_harris(image: Picture, most: int) -> Points:
    """Return the highest peaks of Harris's response, at least HARRIS_APART_PX apart."""
    found = cv2.goodFeaturesToTrack(
        image, most, HARRIS_LEAST, HARRIS_APART_PX, blockSize=HARRIS_BLOCK_PX, useHarrisDetector=True, k=HARRIS_K
    )
    return np.zeros((0, 2)) if found is None else found.reshape(-1, 2)[:, ::-1].astype(np.float64)


def find_random(rng: np.random.Generator, image: Picture, most: int) -> Points:
    """Return points that are uniformly distributed over the image."""
    return rng.uniform(0, np.array(image.shape) - 1, (most, 2))


def sift(points: int = PLENTY) -> cv2.Feature2D:
    return cv2.SIFT_create(points, contrastThreshold=SIFT_CONTRAST, enable_precise_upscale=True)  # type: ignore[attr-defined]


def orb(points: int = PLENTY) -> cv2.Feature2D:
    return cv2.ORB_create(points, edgeThreshold=ORB_EDGE_PX, fastThreshold=ORB_FAST)  # type: ignore[attr-defined]


def finders(seed: int) -> dict[str, Find]:
    """Return the finders that this OpenCV has, by name."""
    methods: dict[str, Find] = {
        "SIFT": partial(find_features, sift()),
        "ORB": partial(find_features, orb()),
        "Harris": find_harris,
    }
    if hasattr(cv2, "AKAZE_create"):  # OpenCV 5 has dropped it
        methods["AKAZE"] = partial(find_features, cv2.AKAZE_create(threshold=AKAZE_LEAST))
    return methods | {"random points": partial(find_random, np.random.default_rng(seed))}


def register_sift(moving: Picture, fixed: Picture) -> Answer:
    """Register by SIFT and MAGSAC++."""
    return _register(sift(MATCHED_POINTS), cv2.NORM_L2, moving, fixed)


def register_orb(moving: Picture, fixed: Picture) -> Answer:
    """Register by ORB and MAGSAC++."""
    return _register(orb(MATCHED_POINTS), cv2.NORM_HAMMING, moving, fixed)


def _register(detector: cv2.Feature2D, norm: int, moving: Picture, fixed: Picture) -> Answer:
    moving_xy, fixed_xy = _matches(detector, norm, moving, fixed)
    if len(moving_xy) < 3:
        return Answer(None, accepted=False, score=np.nan)
    linear, agree = cv2.estimateAffine2D(
        moving_xy,
        fixed_xy,
        method=cv2.USAC_MAGSAC,
        ransacReprojThreshold=MAGSAC_PX,
        maxIters=MAGSAC_TRIALS,
        confidence=MAGSAC_SURE,
    )
    if linear is None or not np.isfinite(linear).all():
        return Answer(None, accepted=False, score=np.nan)
    return Answer(np.vstack([linear, [0.0, 0.0, 1.0]]), int(agree.sum()) >= ACCEPTED_INLIERS, np.nan)


def _matches(
    detector: cv2.Feature2D, norm: int, moving: Picture, fixed: Picture
) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n 2"]]:
    """Return (x, y) of the points that are each other's nearest and pass the ratio test in the fixed image, one to one."""
    (points_m, described_m), (points_f, described_f) = (detector.detectAndCompute(image, None) for image in (moving, fixed))
    if described_m is None or described_f is None or min(len(described_m), len(described_f)) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    matcher = cv2.BFMatcher(norm)
    back = {pair.queryIdx: pair.trainIdx for pair in matcher.match(described_f, described_m)}
    forth = matcher.knnMatch(described_m, described_f, k=2)
    good = [a for a, b in forth if a.distance < RATIO * b.distance and back[a.trainIdx] == a.queryIdx]
    ends = ((points_m[m.queryIdx].pt, points_f[m.trainIdx].pt) for m in good)
    both = np.array(list(ends), dtype=np.float64).reshape(-1, 2, 2)
    return both[:, 0].copy(), both[:, 1].copy()
