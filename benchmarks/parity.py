"""Compares loquent's networks with a folder of recorded numbers: python benchmarks/parity.py DIR

Prints a line for each file and exits with 1 when one is not met.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # must be set before torch is imported

import argparse
import sys
from pathlib import Path

from loquent.evaluation.fixtures import ParityError
from loquent.evaluation.parity import TOLERANCE, check_folder


def main() -> int:
    parser = argparse.ArgumentParser(description="Compares loquent's networks with recorded numbers.")
    parser.add_argument("folder", type=Path, help="folder of <module>.safetensors and <module>.keys.json files")
    folder: Path = parser.parse_args().folder
    results = []
    try:
        for result in check_folder(folder):
            print(result, flush=True)
            results.append(result)
    except ParityError as error:
        print(error, file=sys.stderr)
        return 2
    met = sum(result.met for result in results)
    missing = sum(result.status == "missing" for result in results)
    print(
        f"{met} of {len(results)} met ({TOLERANCE:g}, or what its evaluator says), {missing} without an implementation"
    )
    return 0 if met == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
