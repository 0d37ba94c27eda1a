"""Feed bytes to a reader: an InputError is an answer, anything else that is raised is a finding.

`python fuzz/images.py` fuzzes for a bounded time (`--seconds 60`) with atheris, the extra `fuzz`, which sees what bytes reach;
`python fuzz/images.py FILE ...` tries files, a finding among them, and needs no extra.
"""

import argparse
import hashlib
import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

try:
    import atheris
except ImportError:  # files can be tried without it
    atheris = None

FOUND = Path(__file__).parent / "found"
MOST_BYTES = 4 * 2**30  # of memory that a reader may ask for
SLOWEST_S = 20

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the shared set of hostile files


def watched(*modules: str) -> AbstractContextManager[object]:
    """Return a context in which imported modules are instrumented, so that new paths through them are seen."""
    return nullcontext() if atheris is None else atheris.instrument_imports(include=list(modules))


def main(check: Callable[[bytes], None], seeds: Mapping[str, bytes]) -> None:
    """Fuzz a check from seeds, or try the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="try these, rather than fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    for path in asked.files:
        check(path.read_bytes())
        print(f"{path}: an answer or a refusal")
    if asked.files:
        return
    if atheris is None:
        sys.exit("atheris is not installed: pip install 'fiducial[fuzz]'")
    FOUND.mkdir(exist_ok=True)

    def kept(data: bytes) -> None:
        try:
            check(data)
        except BaseException:
            (FOUND / f"{Path(sys.argv[0]).stem}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
            raise

    with TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds.values()):
            (Path(corpus) / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={asked.seconds}", f"-timeout={SLOWEST_S}", "-rss_limit_mb=0", "-max_len=20000"]
        quiet = ["-verbosity=1", "-print_final_stats=1", f"-artifact_prefix={FOUND}/{Path(sys.argv[0]).stem}-"]
        atheris.Setup([sys.argv[0], *limits, *quiet, corpus], kept)
        atheris.Fuzz()
