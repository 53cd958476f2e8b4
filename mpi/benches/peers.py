"""What ship.rs does, by Python's pools over MPI. Started by compare.py:

    mpirun -n 3 python peers.py schwimmbad
    mpirun -n 3 python -m mpi4py.futures peers.py mpi4py
"""

import statistics
import sys
import time

import numpy

ROUNDS = 7
CHUNKS = 2000


def nothing(x):
    return x


def add(x):
    return x + 1.0


def tell(peer, name, call, count=1):
    call()
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    print(peer, name, f"{statistics.median(times) / count:e}", flush=True)


def race(peer, run, run_chunked):
    numbers = [float(x) for x in range(1_000_000)]
    arrays = [numpy.array(numbers[x : x + 1000]) for x in range(0, len(numbers), 1000)]
    tell(peer, "empty", lambda: run(nothing, range(CHUNKS)), CHUNKS)
    if run_chunked:
        tell(peer, "numbers", lambda: run_chunked(add, numbers))
    tell(peer, "arrays", lambda: run(add, arrays))


def schwimmbad():
    from schwimmbad import MPIPool

    with MPIPool() as pool:
        # It has no chunks: a task is an item.
        race("schwimmbad", lambda f, xs: list(pool.map(f, xs)), None)


def mpi4py():
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as pool:
        race(
            "mpi4py",
            lambda f, xs: list(pool.map(f, xs, chunksize=1)),
            lambda f, xs: list(pool.map(f, xs, chunksize=1000)),
        )


if __name__ == "__main__":
    {"schwimmbad": schwimmbad, "mpi4py": mpi4py}[sys.argv[1]]()
