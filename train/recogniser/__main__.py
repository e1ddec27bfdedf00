"""Say how often the recogniser is right, on scenes that no training sees: python -m train.recogniser

A line for each kind of scene, of looks seen in training and of looks that were not; the joints' errors are root mean
squares, tilt as a share of its range.
"""

import argparse
from pathlib import Path

from train.miniature.data import WORLDS
from train.recogniser import RECOGNISER_FILE, load_recogniser
from train.recogniser.learn import accuracies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=RECOGNISER_FILE)
    parser.add_argument("--world", choices=WORLDS, default="small")
    parser.add_argument("--count", type=int, default=300, help="scenes a line")
    args = parser.parse_args()
    if args.count < 1:
        parser.error(f"--count is {args.count}; want at least 1")
    try:
        recogniser = load_recogniser(args.weights)
    except ValueError as error:
        parser.error(str(error))
    print(accuracies(recogniser, args.world, args.count))


if __name__ == "__main__":
    main()
