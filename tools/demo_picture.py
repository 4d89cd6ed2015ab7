"""Draw what `make demo` shows, from a run that it made.

Usage: python tools/demo_picture.py RUN_DIR docs/demo.svg
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.tables import drawn, summary_table
from trainer.run_dir import RunDir

WIDTH = 110  # columns
HEAD, TAIL = 10, 8  # lines of the log that are shown
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # a picture should not fetch fonts from elsewhere


def shortened(lines: Sequence[str]) -> list[str]:
    """The beginning and the end of a log."""
    if len(lines) <= HEAD + TAIL + 1:
        return list(lines)
    return [*lines[:HEAD], f"… {len(lines) - HEAD - TAIL} lines", *lines[-TAIL:]]


def picture(run: RunDir) -> str:
    """SVG of the terminal after a run that succeeded.

    Raises:
        SystemExit: It has not succeeded.
    """
    from rich.console import Console

    summary = run.read_summary()
    if summary is None or not run.success.exists():
        raise SystemExit(f"{run.root}: a run without SUCCESS is nothing to show")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, force_terminal=True)
    console.print("$ make demo", style="bold")
    console.print(run.root.name, markup=False)
    log = run.log(run.attempts()[-1]).read_text(encoding="utf-8", errors="replace")
    for line in shortened(log.splitlines()):
        console.print(
            line, markup=False, style="dim" if line.startswith("… ") else "", overflow="ellipsis", no_wrap=True
        )
    console.print(f"{run.root.name}: succeeded", style="green", markup=False)
    console.print(drawn(summary_table({run.root.name: summary})))
    return FONT.sub("", console.export_svg(title="longshore", unique_id="demo"))


def main() -> None:
    """Write the picture that the arguments name."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    Path(sys.argv[2]).write_text(picture(RunDir(Path(sys.argv[1]).absolute())), encoding="utf-8")


if __name__ == "__main__":
    main()
