"""What all answers share: how they are told in a console, and when two of them are equal."""

import math
from dataclasses import fields
from textwrap import shorten

import numpy as np

_TOLD = 9  # numbers of an array that are told one by one: those of a transform


class Answer:
    """An answer, whose fields a frozen dataclass adds, with `eq=False` and `repr=False`.

    In a console it is a few lines, however much was found. Two are equal where all fields are, arrays number by number.
    """

    def __repr__(self) -> str:
        """Return the fields, long arrays by their shape, and what the answer is in a word, if it has one."""
        word = {"answer": self.answer} if hasattr(self, "answer") else {}
        return f"{type(self).__name__}({', '.join(f'{name}={_told(value)}' for name, value in (word | _held(self)).items())})"

    def __eq__(self, other: object) -> bool:
        """Say whether another object is the same answer."""
        if type(other) is not type(self):
            return NotImplemented
        theirs = _held(other)
        return all(_equal(value, theirs[name]) for name, value in _held(self).items())

    def __hash__(self) -> int:
        """Return a number that equal answers share."""
        return hash((type(self).__name__, *(value for value in _held(self).values() if isinstance(value, str | tuple))))


def _held(answer: object) -> dict[str, object]:
    return {own.name: getattr(answer, own.name) for own in fields(answer)}  # type: ignore[arg-type]  # a dataclass


def _told(value: object) -> str:
    if not isinstance(value, np.ndarray):
        return shorten(repr(value), 100, placeholder=" …")
    if 0 < value.size <= _TOLD:
        return " ".join(np.array2string(value, precision=6, separator=", ", suppress_small=True).split())
    return f"<{' × '.join(str(side) for side in value.shape)} {value.dtype}>"


def _equal(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))
