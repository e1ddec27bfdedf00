"""What the code costs, as ratios of two sides measured in one process: `python -m tests.benchmarks --help`."""
