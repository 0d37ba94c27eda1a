"""Write the table of a benchmark with where and when it was measured."""

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

FOLDER = Path(__file__).parent / "results"


def write_result(name: str, table: pd.DataFrame, folder: Path = FOLDER) -> None:
    """Write results/NAME.csv, or NAME.csv in another folder, every row with commit, machine and date, and print it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(
        ["git", "status", "--porcelain", "fiducial"], capture_output=True, text=True, check=False
    ).stdout.strip()
    table = table.assign(
        commit=commit + ("+changes" if changed else ""),
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        date=datetime.now(UTC).date().isoformat(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    print(table.round(4).T.to_string())
