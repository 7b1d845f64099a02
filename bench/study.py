"""How far off a study is: the loss of runs four times larger than any in the fit, predicted and measured.

    python bench/study.py book.txt code/ [--minutes 30] [--families autoregressive masked] [--out studies]

Each text is a study of its own with `--check`, in a folder of its name, which continues where it was. The bar is one
percent on two texts.
"""

import argparse
from pathlib import Path

from common import parse, parser
from seedfast import study
from seedfast.report.format import measured
from seedfast.scaling.outcome import Family
from seedfast.scaling.request import FAMILIES

BAR = 0.01


def row(text: str, family: Family) -> str:
    """A family as a row of Markdown."""
    check = family.check
    assert check.measured is not None
    assert check.error is not None
    cells = [
        text,
        f"{family.name}{' ≤' * family.is_bound}",
        f"{check.flops:.3g}",
        f"{check.value:.4f}",
        f"{check.low:.4f} … {check.high:.4f}",
        measured(check.measured, check.standard_error),
        f"{check.error:+.2%}",
        "yes" if abs(check.error) <= BAR else "no",
    ]
    return f"| {' | '.join(cells)} |"


def options() -> argparse.ArgumentParser:
    """The command line."""
    made = parser(__doc__, threads=2)
    made.add_argument("texts", nargs="+")
    made.add_argument("--minutes", type=float, default=30, help="of each text")
    made.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    made.add_argument("--out", type=Path, default=Path("studies"))
    return made


def main() -> None:
    """Print the table."""
    asked = parse(options())
    header = ["text", "family", "FLOPs", "predicted", "90% band", "measured", "off by", f"within {BAR:.0%}"]
    rows = []
    for text in asked.texts:
        name = Path(text).stem
        found = study(text, asked.out / name, families=asked.families, minutes=asked.minutes, check=True)
        rows += [row(name, family) for family in found.families]
    print(f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *rows, sep="\n")


if __name__ == "__main__":
    main()
