"""`python -m scripts.demo_model train | measure`: makes the demo model, and says how good it is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "assets" / "demo_model"


def main() -> None:
    """Parses the command line and does what it says."""
    parser = argparse.ArgumentParser(prog="python -m scripts.demo_model", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the model lies (assets/demo_model)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train from nothing and write the folder")
    training.add_argument("--steps", type=int, help="optimiser steps, fewer for a try")
    measuring = commands.add_parser("measure", help="measure, print the figures and write MEASURED.json")
    measuring.add_argument("--verbose", action="store_true", help="print every question that was missed")
    measuring.add_argument("--no-write", action="store_true", help="print only")
    chosen = parser.parse_args()
    if chosen.command == "train":
        from scripts.demo_model.train import STEPS, train

        train(chosen.folder, chosen.steps or STEPS, chosen.threads)
    else:
        from scripts.demo_model.measure import measure, write

        figures = measure(chosen.folder, chosen.threads, chosen.verbose)
        if not chosen.no_write:
            write(chosen.folder, figures)
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
