"""Every figure of docs/benchmarks.md that a CPU gives: `python -m tests.benchmarks`.

Both sides of a ratio run in this process, one after the other, several rounds, and the table has the median with the
smallest and the largest; so a busy neighbour disturbs both alike. `--clock cpu --threads 1` counts this process's own
seconds, where neighbours disturb still less. Each figure is printed as soon as it is there, and those of a part are
kept in --json when it is done: run again with the same file, what stands there is not measured again.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' own modules, the oracle among them

import torch
from tqdm import tqdm

from benchmarks import counted, full, learning, parts
from benchmarks.measure import Clock, Figure, threads
from benchmarks.parts import Bench, Figures
from models.precision import full_float32
from models.threads import suited_threads

PARTS: dict[str, Callable[[Bench], Figures]] = {
    "counted": counted.counted,
    "swap": parts.swap,
    "full": full.full,
    "savings": parts.savings,
    "oracle": parts.oracle,
    "plain": parts.plain,
    "growth": parts.growth,
    "dtypes": parts.dtypes,
    "null-text": parts.null_text,
    "tiling": parts.tiling,
    "learn": learning.learn,
    "starts": parts.starts,
    "demo": parts.demo,
}
BEGIN, END = "<!-- printed by python -m tests.benchmarks -->", "<!-- until here -->"


def table(figures: Sequence[Figure]) -> str:
    """Markdown, a table a part."""
    blocks = []
    for part in (name for name in PARTS if name in {figure.part for figure in figures}):
        lines = [f"**{part}**", "", "| what | median | rounds | at most |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(figure.cells())} |" for figure in figures if figure.part == part]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def kept(path: Path | None) -> list[Figure]:
    """The figures of an earlier run."""
    lines = path.read_text().splitlines() if path and path.is_file() else []
    return [Figure(**json.loads(line)) for line in lines]


def written_into(text: str, content: str) -> str:
    """The text with what stands between the markers replaced. Raises ValueError where they are missing."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"no {BEGIN} and {END} in that file: nowhere to write the tables")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{rest.split(END, 1)[1]}"


def machine(count: int | None, clock: str) -> str:
    """The processor, the versions, and whose seconds were counted."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    cores = (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, threads {count or 'as suit the model'}"
    )
    seconds = {"wall": "seconds on the wall", "cpu": "the process's own seconds but for starts and demo"}[clock]
    return f"{cores}; torch {torch.__version__}, Python {platform.python_version()}; {seconds}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--threads", type=int, help="for all parts (default: as models/threads.py finds suitable)")
    parser.add_argument("--against", metavar="MODULE:FUNCTION", help="given our model, returns another network")
    parser.add_argument("--json", type=Path, help="where figures are kept, a line each")
    parser.add_argument("--write", type=Path, help="a page whose tables are replaced")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(unknown)}; there is {', '.join(PARTS)}")
    bench, figures = Bench(Clock(arguments.clock), arguments.rounds, arguments.against), kept(arguments.json)
    wanted = [name for name in arguments.parts or PARTS if name not in {figure.part for figure in figures}]
    print(machine(arguments.threads, arguments.clock))
    with threads(arguments.threads) if arguments.threads else suited_threads(bench.model), full_float32():
        for name in (bar := tqdm(wanted)):
            bar.set_description(name)
            found = []
            for figure in PARTS[name](bench):
                found.append(figure)
                bar.write(f"{name:<10} " + "   ".join(figure.cells()))
            figures += found
            if arguments.json:
                with arguments.json.open("a") as lines:
                    lines.writelines(json.dumps(figure.as_json()) + "\n" for figure in found)
    if not arguments.against and (not arguments.parts or "plain" in arguments.parts):
        print("plain      no other implementation named with --against: nothing to compare plain sampling with")
    if arguments.write:
        content = f"{machine(arguments.threads, arguments.clock)}.\n\n{table(figures)}"
        arguments.write.write_text(written_into(arguments.write.read_text(), content))


if __name__ == "__main__":
    main()
