"""Tell how far a piece of work has come, steadily: in parts whose number is known before, never backwards."""

from dataclasses import dataclass

from fiducial.records import Progress


def part_of(progress: Progress, i: int, n: int) -> Progress:
    """Return what tells the progress of part `i` of `n` equal ones, from 0, as progress of the whole."""
    return lambda done, total: progress(i * total + done, n * total)


@dataclass
class Steps:
    """A count of parts done, out of a number that was estimated; `progress` hears of each, if there is one."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self) -> None:
        """Count one more part."""
        self.reach(self.done + 1)

    def reach(self, done: int) -> None:
        """Count as many parts as done, where fewer are; not beyond the total."""
        now = min(done, self.total)
        if now > self.done:
            self.done = now
            if self.progress is not None:
                self.progress(now, self.total)
