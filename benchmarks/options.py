"""What every script of this folder can be told, in the same words: --data, --quick, --out, --threads."""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from pathlib import Path

from result_files import FOLDER, commit

MISSING = 66  # exit status of a script whose data are not there (EX_NOINPUT of sysexits.h)


def options(doc: str | None) -> ArgumentParser:
    """Return a parser of the options that all scripts share; a script adds its own."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="folder of the public datasets")
    parser.add_argument("--quick", action="store_true", help="measure a small subset, to see that it runs; asks for --out")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the tables; benchmarks/results by default")
    parser.add_argument("--threads", type=int, default=2, help="of torch and OpenCV, each")
    return parser


def read_options(parser: ArgumentParser, quick: Mapping[str, object], needs: tuple[str, ...] = ()) -> Namespace:
    """Return what was asked for, threads being set; exits with status MISSING where folders under --data are absent.

    Args:
        parser: of `options`, with what the script adds.
        quick: what --quick sets options to that are not given.
        needs: folders under --data, without which nothing can be measured.
    """
    args = parser.parse_args()
    if args.quick:
        if args.out.resolve() == FOLDER.resolve():
            parser.error("--quick measures too little for the docs: name another folder by --out")
        for name, value in quick.items():
            if getattr(args, name) == parser.get_default(name):
                setattr(args, name, value)
    missing = [name for name in needs if args.data is None or not (args.data / name).is_dir()]
    if missing:
        print(f"needs {', '.join(missing)} in the folder that --data names, got --data {args.data}", file=sys.stderr)
        raise SystemExit(MISSING)
    import cv2  # noqa: PLC0415 (heavy, and of no use to who is told that data are missing)
    import torch  # noqa: PLC0415

    commit()  # now: the clone may change while this runs
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    return args
