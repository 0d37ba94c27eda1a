"""A patchwork is read as an array is, and takes memory only where something was written."""

import numpy as np

from fiducial.patchwork import Patchwork


def test_what_was_written_is_read_as_from_an_array() -> None:
    rng = np.random.default_rng(2)
    own, array = Patchwork((230, 151), np.dtype(np.float16)), np.zeros((230, 151), np.float16)
    for _ in range(60):
        y, x = int(rng.integers(0, 200)), int(rng.integers(0, 130))
        values = (rng.random((int(rng.integers(1, 31)), int(rng.integers(1, 22)))) * (rng.random() > 0.4)).astype(np.float16)
        own.write((y, x), values)
        array[y : y + values.shape[0], x : x + values.shape[1]] = values
        window = np.s_[y : y + 70, max(0, x - 9) : x + 3]
        np.testing.assert_array_equal(own[window], array[window])
    np.testing.assert_array_equal(own.dense(), array)
    assert own.dense().dtype == np.float16


def test_places_that_are_0_take_no_memory_however_large_the_array_is() -> None:
    own = Patchwork((10**6, 10**6), np.dtype(np.uint8))
    own.write((500_000, 999_000), np.zeros((300, 400), np.uint8))
    assert not own.cells
    own.write((500_000, 999_990), np.full((3, 10), 7, np.uint8))
    assert sum(cell.nbytes for cell in own.cells.values()) <= 2 * 64 * 64
    assert own[500_001:500_002, 999_989:999_992].tolist() == [[0, 7, 7]]
