"""Draws losses of trainings, each relative to its first line: one panel a training.

    python benchmarks/training_curves.py -o curves.png name=RUN/log.jsonl[:term,term] ...

A log is what `loquent train` writes. Without terms the loss alone is drawn. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = 4


def read_log(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def draw(panel: plt.Axes, name: str, rows: list[dict[str, float]], terms: list[str]) -> None:
    """Terms that a line lacks leave a gap there; a training of several runs goes on counting."""
    steps, offset, last = [], 0, 0
    for row in rows:
        offset += last if row["step"] <= last else 0
        last = row["step"]
        steps.append(offset + last)
    for term in terms:
        known = [(step, row[term]) for step, row in zip(steps, rows, strict=True) if term in row]
        first = known[0][1]
        panel.plot([step for step, _ in known], [value / first for _, value in known], label=term)
    panel.set_title(name, fontsize=9)
    panel.set_ylim(bottom=0)
    panel.tick_params(labelsize=7)
    panel.legend(fontsize=7, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", help="name=log.jsonl, with terms after a colon if wanted")
    parser.add_argument("-o", "--out", type=Path, default=Path("curves.png"))
    arguments = parser.parse_args()
    rows = -(-len(arguments.logs) // COLUMNS)
    columns = min(COLUMNS, len(arguments.logs))
    figure, panels = plt.subplots(rows, columns, figsize=(3 * columns, 2.2 * rows), squeeze=False)
    for panel in panels.flat[len(arguments.logs) :]:
        panel.axis("off")
    for panel, item in zip(panels.flat, arguments.logs, strict=False):
        name, _, rest = item.partition("=")
        path, _, terms = rest.partition(":")
        draw(panel, name, read_log(Path(path)), terms.split(",") if terms else ["loss"])
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=90)


if __name__ == "__main__":
    main()
