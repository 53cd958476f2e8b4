#!/usr/bin/env python3
"""Races Python's pools against parpool on the same work, taking turns, as a Markdown table.

    python3 benches/python/compare.py [--rounds N] [--workers N]

Contenders: multiprocessing.Pool, multiprocessing.pool.ThreadPool, and joblib and mpire if they are
installed (`pip install joblib mpire`). The column of parpool comes from a program that this builds with
cargo: `parpool-peers python`. Each cell is the median of the rounds, with the quartiles.

An item of so many microseconds is arithmetic in the contender's own language which takes that time there,
so the cells compare what is added to the work, and how it is shared out. The loop over the same items is timed
in the same round and process.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from multiprocessing import Pool
from multiprocessing.pool import ThreadPool
from pathlib import Path

try:
    import joblib
except ImportError:
    joblib = None
try:
    import mpire
except ImportError:
    mpire = None

ROOT = Path(__file__).resolve().parents[2]


def spin(steps):
    """Arithmetic that takes a time in proportion to `steps`."""
    x = 1
    for _ in range(steps):
        x = x * 1103515245 + 12345 & 0xFFFFFFFF
    return x


def square(x):
    return x * x


def nothing():
    return 1


def steps_per_second():
    def once():
        start = time.perf_counter()
        spin(20_000)
        return time.perf_counter() - start

    return 20_000 / min(once() for _ in range(50))


class Multiprocessing:
    """`multiprocessing.Pool`, and `ThreadPool`, which has the same methods."""

    def __init__(self, kind, workers):
        self.kind, self.workers = kind, workers
        self.pool = kind(workers)

    def map(self, f, xs):
        return self.pool.map(f, xs)

    def imap(self, f, xs):
        return self.pool.imap(f, xs)

    def tasks(self, count):
        handles = [self.pool.apply_async(nothing) for _ in range(count)]
        return sum(handle.get() for handle in handles)

    def start(self):
        pool = self.kind(self.workers)
        pool.apply(nothing)
        pool.close()
        pool.join()


class Joblib:
    def __init__(self, workers):
        self.workers = workers
        self.pool = joblib.Parallel(n_jobs=workers).__enter__()
        self.stream = joblib.Parallel(n_jobs=workers, return_as="generator").__enter__()

    def map(self, f, xs):
        return self.pool(joblib.delayed(f)(x) for x in xs)

    def imap(self, f, xs):
        return self.stream(joblib.delayed(f)(x) for x in xs)


class Mpire:
    def __init__(self, workers):
        self.workers = workers
        self.pool = mpire.WorkerPool(n_jobs=workers, keep_alive=True)

    def map(self, f, xs):
        return self.pool.map(f, xs)

    def imap(self, f, xs):
        return self.pool.imap(f, xs)

    def start(self):
        with mpire.WorkerPool(n_jobs=self.workers) as pool:
            pool.map(square, [1])


def contenders(workers):
    found = {
        "multiprocessing.Pool": Multiprocessing(Pool, workers),
        "ThreadPool": Multiprocessing(ThreadPool, workers),
    }
    if joblib:
        found[f"joblib {joblib.__version__}"] = Joblib(workers)
    if mpire:
        found[f"mpire {version('mpire')}"] = Mpire(workers)
    return found


def version(package):
    from importlib.metadata import version

    return version(package)


def rows():
    """For each row its name, the verb and its arguments, and how many items it has if one is tiny."""
    rate = steps_per_second()
    dear = lambda seconds: round(seconds * rate)
    tiny = range(100_000)
    return {
        "map, 1e4 × 10 µs": ("map", (spin, [dear(10e-6)] * 10_000), None),
        "map, last 1 % of 1e5": ("map", (spin, [0] * 99_000 + [dear(100e-6)] * 1_000), None),
        "map, first 8 of 1e5": ("map", (spin, [dear(12.5e-3)] * 8 + [0] * 99_992), None),
        "map, 1e5 × `x·x`": ("map", (square, tiny), len(tiny)),
        "imap, 1e4 × `x·x`": ("imap", (square, tiny[:10_000]), 10_000),
        "imap, 2000 × 100 µs": ("imap", (spin, [dear(100e-6)] * 2000), None),
        "apply_async and get, 5000": ("tasks", (5000,), 5000),
        "start, one call, join": ("start", (), 1),
    }


def loop(f, xs):
    return [f(x) for x in xs]


def run(who, verb, arguments):
    result = getattr(who, verb)(*arguments)
    return list(result) if verb == "imap" else result


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def parpool(binary, workers):
    """One round: for each row a time, × ideal or of an item."""
    out = subprocess.run([binary, "python", "--workers", str(workers)], capture_output=True, check=True, text=True)
    return {name: float(value) for name, value in (line.split("\t") for line in out.stdout.splitlines())}


def build():
    command = ["cargo", "build", "--release", "-p", "parpool-peers"]
    subprocess.run(command, cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    return ROOT / target / "release" / "parpool-peers"


def show(values, is_time):
    if not values:
        return "–"
    low, middle, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    form = seconds if is_time else lambda x: f"{x:.2f}"
    return f"{form(middle)} ({form(low)}–{form(high)})"


def seconds(x):
    number, unit = next((x * k, u) for k, u, limit in [(1e9, "ns", 1e-6), (1e6, "µs", 1e-3), (1e3, "ms", 1e9)] if x < limit)
    return f"{number:.3g} {unit}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = arguments.parse_args()
    binary, workers = build(), arguments.workers
    everybody, table = contenders(workers), rows()
    names = ["parpool", *everybody]
    cells = {(row, name): [] for row in table for name in names}
    for round in range(arguments.rounds):
        for turn in range(len(names)):
            name = names[(round + turn) % len(names)]
            if name == "parpool":
                for row, value in parpool(binary, workers).items():
                    cells[row, name].append(value)
                continue
            for row, (verb, arguments_of, items) in table.items():
                if not hasattr(everybody[name], verb):
                    continue
                took = timed(lambda: run(everybody[name], verb, arguments_of))
                unit = items or timed(lambda: loop(*arguments_of)) / workers
                cells[row, name].append(took / unit)
        print(f"  round {round + 1}", file=sys.stderr)
    print(f"{os.cpu_count()} cores, {workers} workers, {arguments.rounds} rounds; Python {platform.python_version()}")
    print(f"\n| work | shown | {' | '.join(names)} |\n{'|---' * (len(names) + 2)}|")
    for row, (_, _, items) in table.items():
        shown = "time of one" if items else "× ideal"
        print(f"| {row} | {shown} | {' | '.join(show(cells[row, name], items) for name in names)} |")


if __name__ == "__main__":
    main()
