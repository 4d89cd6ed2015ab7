"""Draw what `runs` shows on a terminal, from a folder of runs.

Usage: python tools/runs_picture.py HOME docs/runs.svg
"""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.runs import RunStore
from orchestrator.tables import drawn, fitted, heartbeat, runs_table
from orchestrator.trend import trends

WIDTH = 132  # columns
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # a picture should not fetch fonts from elsewhere


def picture(home: Path) -> str:
    """SVG of the terminal."""
    from rich.console import Console

    records = RunStore(home).list()
    table = runs_table(records, {run.run_id: heartbeat(run) for run in records}, time.time(), trends(records))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, force_terminal=True)
    console.print("$ python orchestrate.py runs", style="bold")
    console.print(drawn(fitted(table, WIDTH)))
    return FONT.sub("", console.export_svg(title="longshore", unique_id="runs"))


def main() -> None:
    """Write the picture that the arguments name."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    Path(sys.argv[2]).write_text(picture(Path(sys.argv[1])), encoding="utf-8")


if __name__ == "__main__":
    main()
