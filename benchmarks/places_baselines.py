"""Find a query in a source as people do today: correlation over scales, SIFT with RANSAC, a dense database of patches.

Each answers as `locate` is asked to: up to five places, by descending score, apart from each other.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float64
from keypoints_baselines import sift

from fiducial.coords import apply_transform, corners_yx, resize_transform
from fiducial.evaluate.places import Candidates, PlaceCase
from fiducial.geometry import local_contrast
from fiducial.matching import CONTRAST_PX, SAME_IOU
from fiducial.metrics import quad_iou
from fiducial.places.network import TripletNet

MOST = 5  # places of an answer
CORRELATED_SCALES = tuple(np.geomspace(0.1, 1.0, 25).tolist())
SMALLEST_TEMPLATE_PX = 24
SIFT_LONGEST_PX = 1024  # to which queries are reduced
SIFT_SMALL_PX = 600  # longer side under which a source is enlarged twice: SIFT finds few points in small images
SIFT_RATIO, RANSAC_PX, LEAST_INLIERS = 0.8, 3.0, 4
PLAUSIBLE_SCALES = (0.05, 2.0)  # size of a query's pixel in the source's
BATCH = 256

Picture = np.ndarray  # (H, W) uint8


def best_apart(quads: Float64[np.ndarray, "n 4 2"], score: Float64[np.ndarray, " n"]) -> Candidates:
    """Return the MOST best places that lie apart from every better one."""
    kept: list[int] = []
    for i in np.argsort(-score, kind="stable").tolist():
        if all(quad_iou(quads[i], quads[j]) < SAME_IOU for j in kept):
            kept.append(i)
        if len(kept) == MOST:
            break
    return Candidates(quads[kept].reshape(-1, 4, 2), score[kept])


def correlate_over_scales(query: Picture, source: Picture, smallest_px: int = SMALLEST_TEMPLATE_PX) -> Candidates:
    """Correlate the upright query with the source at 25 scales from 0.1 to 1, as it is and as its negative.

    The score is the normalized correlation, its sign left out.
    """
    found = [_peaks(query, source, scale, smallest_px) for scale in CORRELATED_SCALES]
    return best_apart(np.concatenate([f.corners_yx for f in found]), np.concatenate([f.score for f in found]))


def _peaks(query: Picture, source: Picture, scale: float, smallest_px: int) -> Candidates:
    """Return the MOST highest peaks at one scale; none if the template is too small or exceeds the source."""
    h, w = (round(side * scale) for side in query.shape)
    if min(h, w) < smallest_px or h > source.shape[0] or w > source.shape[1]:
        return Candidates(np.zeros((0, 4, 2)), np.zeros(0))
    small = cv2.resize(query, (w, h), interpolation=cv2.INTER_AREA)
    surface = np.abs(cv2.matchTemplate(source, small, cv2.TM_CCOEFF_NORMED))
    surface[~(surface <= 1)] = -1  # where a window is constant, OpenCV divides by next to nothing
    at_yx, score = [], []
    for _ in range(MOST):
        _, value, _, (x, y) = cv2.minMaxLoc(surface)
        if value <= 0:
            break
        at_yx.append((y, x))
        score.append(value)
        top, left = max(0, y - h), max(0, x - w)
        window = surface[top : y + h, left : x + w]
        rows, columns = np.arange(top, top + window.shape[0]), np.arange(left, left + window.shape[1])
        shared = np.outer(1 - np.abs(rows - y) / h, 1 - np.abs(columns - x) / w)  # part of a box that both cover
        window[shared / (2 - shared) >= SAME_IOU] = -1
    return Candidates(corners_yx((h, w)) + np.array(at_yx, dtype=np.float64).reshape(-1, 1, 2), np.array(score))


def sift_ransac(query: Picture, source: Picture) -> Candidates:
    """Match SIFT points by the ratio test and fit similarities; the score of n inliers is n / (n + 10).

    The inliers of one place are taken away before the next is sought.
    """
    from_query, to_source = _sift_matches(query, source)
    left, quads, score = np.ones(len(from_query), dtype=bool), [], []
    for _ in range(MOST):
        if left.sum() < LEAST_INLIERS:
            break
        linear, agree = cv2.estimateAffinePartial2D(
            from_query[left], to_source[left], method=cv2.RANSAC, ransacReprojThreshold=RANSAC_PX
        )
        inliers = 0 if linear is None else int(agree.sum())
        if inliers < LEAST_INLIERS:
            break
        left[np.flatnonzero(left)[agree.ravel() > 0]] = False
        matrix = np.vstack([linear, [0.0, 0.0, 1.0]])
        if PLAUSIBLE_SCALES[0] <= np.hypot(matrix[0, 0], matrix[1, 0]) <= PLAUSIBLE_SCALES[1]:
            quads.append(apply_transform(matrix, corners_yx((query.shape[0], query.shape[1]))))
            score.append(inliers / (inliers + 10))
    return best_apart(np.array(quads).reshape(-1, 4, 2), np.array(score))


def _sift_matches(query: Picture, source: Picture) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n 2"]]:
    """Return points (x, y) in full pixels of the query, and those in pixels of the source that they match."""
    seen_q = _zoomed(query, min(1.0, SIFT_LONGEST_PX / max(query.shape)))
    seen_s = _zoomed(source, 2.0 if max(source.shape) < SIFT_SMALL_PX else 1.0, cv2.INTER_CUBIC)
    finder = sift()
    (points_q, described_q), (points_s, described_s) = (finder.detectAndCompute(image, None) for image in (seen_q, seen_s))
    if described_q is None or described_s is None or len(described_s) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    pairs = cv2.BFMatcher().knnMatch(described_q, described_s, k=2)
    good = [first for first, second in pairs if first.distance < SIFT_RATIO * second.distance]
    # Many points of a query may match one point of a source, which any similarity of scale 0 explains: one is kept.
    good = list({m.trainIdx: m for m in sorted(good, key=lambda m: -m.distance)}.values())
    xy_q, xy_s = np.array([(points_q[m.queryIdx].pt, points_s[m.trainIdx].pt) for m in good]).reshape(-1, 2, 2).swapaxes(0, 1)
    return _unzoomed(xy_q, seen_q, query), _unzoomed(xy_s, seen_s, source)


def _unzoomed(xy: Float64[np.ndarray, "n 2"], seen: Picture, image: Picture) -> Float64[np.ndarray, "n 2"]:
    """Return points (x, y) of a zoomed image in pixels of the image itself."""
    back = resize_transform((seen.shape[0], seen.shape[1]), (image.shape[0], image.shape[1]))
    return apply_transform(back, xy[:, ::-1])[:, ::-1].copy()


@dataclass(frozen=True)
class Retrieved:
    """All patches of a source's database: outlines in pixels of the source, and distances to the query from 0 to 2."""

    corners_yx: Float64[np.ndarray, "n 4 2"]
    distance: Float64[np.ndarray, " n"]

    def candidates(self) -> Candidates:
        """Return the nearest patches as places; the score is 1 - distance / 2."""
        return best_apart(self.corners_yx, 1 - self.distance / 2)

    def is_among_expected(self, truth: Float64[np.ndarray, "4 2"], most: int) -> bool:
        """Say whether one of the `most` nearest is one of the `most` that overlap the truth best: the paper's criterion."""
        if not len(self.distance):
            return False
        iou = np.array([quad_iou(quad, truth) for quad in self.corners_yx])
        least = np.sort(iou)[-most:].min()
        nearest = np.argsort(self.distance, kind="stable")[:most]
        return bool((iou[nearest] >= max(least - 1e-4, 1e-4)).any())  # patches that overlap alike are alike expected


class TripletDatabase:
    """Find queries by a triplet network among the patches of a source: the method that section 6 of FTFY compares with.

    It is told the query's scale in the source, as in the paper, and does not turn the query. Patches are the middle squares
    of outlines of the query's size, a quarter of the shorter side apart, the last row and column at the source's edge.
    """

    def __init__(self, network: TripletNet, device: torch.device, *, bf16: bool) -> None:
        self.network = network.to(device).eval()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.device, self.bf16 = device, bf16

    def search(self, case: PlaceCase) -> Retrieved:
        """Describe every patch of a case's source, and compare it with the case's query."""
        side = self.network.config.query_px
        zoom = side / min(case.query.shape)
        query = _zoomed(case.query, zoom)
        source = _zoomed(case.source, zoom * case.factor)  # a patch now has the network's size
        size, source_size = (query.shape[0], query.shape[1]), (source.shape[0], source.shape[1])
        at_yx = _grid(source_size, size, side // 4)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        squares = [source[y + top : y + top + side, x + left : x + left + side] for y, x in at_yx.tolist()]
        described = self.describe([query[top : top + side, left : left + side], *squares])
        outlines = (corners_yx(size) + at_yx[:, None]).reshape(-1, 2)
        back = resize_transform(source_size, (case.source.shape[0], case.source.shape[1]))
        distance = np.linalg.norm(described[1:] - described[0], axis=1)
        return Retrieved(apply_transform(back, outlines).reshape(-1, 4, 2), distance)

    def describe(self, patches: list[Picture]) -> Float64[np.ndarray, "n v"]:
        """Return the descriptors of patches, each normalized by itself as in training."""
        vectors = []
        for first in range(0, len(patches), BATCH):
            batch = [local_contrast(patch.astype(np.float32) / 255, CONTRAST_PX) for patch in patches[first : first + BATCH]]
            stack = torch.from_numpy(np.stack(batch))[:, None].to(self.device)
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                described = self.network(stack.contiguous(memory_format=torch.channels_last))
            vectors.append(described.double().cpu().numpy())
        return np.concatenate(vectors)


def _zoomed(image: Picture, zoom: float, enlarge: int = cv2.INTER_LINEAR) -> Picture:
    h, w = (round(side * zoom) for side in image.shape)
    return image if zoom == 1 else cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if zoom < 1 else enlarge)


def _grid(source_size: tuple[int, int], size: tuple[int, int], stride: int) -> Float64[np.ndarray, "n 2"]:
    """Return the first pixels of all windows; none if a window exceeds the source."""
    if size[0] > source_size[0] or size[1] > source_size[1]:
        return np.zeros((0, 2), dtype=np.int64)
    rows, columns = (
        np.unique([*range(0, whole - part, stride), whole - part]) for whole, part in zip(source_size, size, strict=True)
    )
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
