#!/usr/bin/env python3
"""Races parpool's pool of ranks against Python's over MPI, taking turns, as a Markdown table.

    pip install mpi4py schwimmbad numpy        (built with the MPI of `mpicc`)
    python3 mpi/benches/compare.py [--rounds N] [--ranks N]

Each program is started once a round, on as many ranks, and tells the median of seven calls; a cell is
the median of the rounds with the least and the most, and how many times parpool's best it is.
"""

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = str(ROOT / "mpi/benches/peers.py")


def build():
    """The path of the Rust program."""
    command = ["cargo", "bench", "-p", "parpool-mpi", "--bench", "ship", "--no-run"]
    command.append("--message-format=json")
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for line in map(json.loads, lines.splitlines()):
        if line.get("executable") and line["target"]["name"] == "ship":
            return line["executable"]
    raise SystemExit("cargo did not build the bench")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--ranks", type=int, default=3)
    options = options.parse_args()
    # Open MPI does not like root; containers are root.
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    launch = ["mpirun", "-n", str(options.ranks)]
    version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout
    if "Open MPI" in version:
        launch += ["--oversubscribe", "--bind-to", "none"]
    programs = [
        [build()],
        [sys.executable, PEERS, "schwimmbad"],
        [sys.executable, "-m", "mpi4py.futures", PEERS, "mpi4py"],
    ]
    cells = collections.defaultdict(list)
    for _ in range(options.rounds):
        for program in programs:
            run = subprocess.run(launch + program, env=env, check=True, capture_output=True, text=True)
            for line in run.stdout.splitlines():
                *name, seconds = line.split()
                cells[tuple(name)].append(float(seconds))
    print(f"{version.splitlines()[0]}, {options.ranks} ranks, {os.cpu_count()} cores\n")
    print("| | | median | least to most | ratio |\n|---|---|---|---|---|")
    for what, unit, scale in [("empty", "µs", 1e6), ("numbers", "ms", 1e3), ("arrays", "ms", 1e3)]:
        rows = {name: times for name, times in cells.items() if name[1] == what}
        best = min(statistics.median(times) for name, times in rows.items() if name[0] == "parpool")
        for name, times in rows.items():
            middle = statistics.median(times)
            span = f"{scale * min(times):.3g} to {scale * max(times):.3g}"
            who = " ".join(name[:1] + name[2:])
            print(f"| {what} | {who} | {scale * middle:.3g} {unit} | {span} | {middle / best:.1f} |")


if __name__ == "__main__":
    main()
