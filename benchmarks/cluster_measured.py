"""Runs of one machine that the simulation must reproduce within 10 %."""

from __future__ import annotations

from dataclasses import replace

from cluster_jobs import Job, Measured
from cluster_parts import Cluster, Faults, Policy
from cluster_rates import MEASURED, Lengths, Row

REFERENCE = Job(
    lengths=Lengths(prompt=13.3, output=10.2, shared=27),
    rows=300,
    rates=MEASURED["reference-avx2"],
    threads=1,
    batch=8,
    cluster=Cluster(workers=2, cores=2),
    policy=Policy(keep_part=False),
    bandwidth=31,
    imbalance=0,
)
"""300 rows: 12 004 tokens of prompts, two thirds shared, and 3 001 generated; two processes of one thread."""

SHORT = Job(
    lengths=Lengths(rows=tuple(Row(8 + 4 * index, 12) for index in range(11))),
    rows=2000,
    rates=MEASURED["batch-avx512_vnni"],
    threads=1,
    batch=8,
    cluster=Cluster(workers=2, cores=2),
    interference=0.02,
    imbalance=0,
)
"""2 000 rows: 55 946 tokens of prompts and 23 998 generated; `pyml batch run`, two workers of one thread.

Workers next to each other take 1.02 times as many processor seconds: 120 rows by one and by two.
"""

RUNS = (
    Measured(
        "300 rows, one process of one thread", (28.1,), replace(REFERENCE, cluster=Cluster(cores=2)), 1, fitted=True
    ),
    Measured("300 rows, 2 processes, 12 shards", (15.9,), REFERENCE, 12),
    Measured("300 rows, 2 processes, 4 shards", (15.1,), REFERENCE, 4),
    Measured(
        "300 rows, 2 processes, one killed after 3 s",
        (19.8,),
        replace(REFERENCE, cluster=Cluster(workers=2, cores=2, restart=0.7), faults=Faults(kills=[(3.0, 1)])),
        4,
    ),
    Measured("2 000 rows, 2 workers, 20 shards, processor seconds of each", (47.97, 47.95), SHORT, 20),
)
