"""Simulate a batch job on many machines: time, cost, tail and recovery.

    python benchmarks/cluster_simulation.py --rows 1e9 --nodes 100 --losses 0.03
    python benchmarks/cluster_simulation.py --lengths lengths.jsonl --rows 1e6 --shard-tokens 5e6 --index
    python benchmarks/cluster_simulation.py --markdown docs/cluster-simulation.md     # the page: every table

Rates are measured ones (cluster_rates.py); the options describe the machines, the faults and the
policy. The same seed gives the same result.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from cluster_jobs import LENGTHS, Job
from cluster_parts import Cluster, Faults, Policy
from cluster_rates import MEASURED, Lengths
from cluster_report import page, row, table


def count(text: str) -> int:
    """Parse a positive whole number, which may be written as 1e9."""
    value = float(text)
    if value != int(value) or value < 1:
        raise ValueError(text)
    return int(value)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Job()
    work = found.add_argument_group("the job")
    work.add_argument("--job", choices=LENGTHS, default="label", help="tokens of the rows")
    work.add_argument("--lengths", type=Path, metavar="FILE", help='rows as JSON Lines, {"prompt": 500, "output": 10}')
    work.add_argument("--shared", type=int, help="tokens of an instruction in common")
    work.add_argument("--rows", type=count, default=default.rows)
    work.add_argument("--shard-rows", type=count, default=default.shard_rows)
    work.add_argument("--shard-tokens", type=count, help="tokens of a shard, instead of rows")
    work.add_argument("--imbalance", type=float, default=default.imbalance, help="deviation / mean of shards' work")
    machines = found.add_argument_group("the machines")
    machines.add_argument("--rates", choices=MEASURED, default=default.rates.name, help="measured rates of a worker")
    machines.add_argument("--threads", type=count, default=default.threads, help="of a worker")
    machines.add_argument("--efficiency", type=float, default=default.efficiency, help="of each doubling of threads")
    machines.add_argument("--batch", type=count, default=default.batch, help="texts at a time in a worker")
    machines.add_argument("--nodes", type=count, default=default.cluster.nodes)
    machines.add_argument("--workers", type=count, default=default.cluster.workers, help="of a node")
    machines.add_argument("--cores", type=count, default=default.cluster.cores, help="of a node")
    machines.add_argument("--sockets", type=count, default=default.cluster.sockets, help="of a node")
    machines.add_argument("--bandwidth", type=float, default=default.bandwidth, help="GB/s of a socket")
    machines.add_argument("--interference", type=float, default=default.interference)
    machines.add_argument("--slow", type=float, default=0.0, help="share of stragglers among the nodes")
    machines.add_argument("--slow-speed", type=float, default=0.5)
    machines.add_argument("--price", type=float, default=default.price, help="of a core-hour")
    faults = found.add_argument_group("faults")
    faults.add_argument("--losses", type=float, default=0.0, help="per node and day, without notice")
    faults.add_argument("--interruptions", type=float, default=0.0, help="per node and day, with notice (spot)")
    faults.add_argument("--notice", type=float, default=120.0, help="seconds")
    faults.add_argument("--replacement", type=float, default=300.0, help="seconds until a node is replaced")
    faults.add_argument("--poison", type=int, default=0, help="rows that kill their process")
    policy = found.add_argument_group("policy")
    policy.add_argument("--index", action="store_true", help="node i of N takes the shards i, i + N, ...")
    policy.add_argument("--longest-first", action="store_true", help="not in the order of the plan, retries first")
    policy.add_argument("--tail", choices=("none", "copies", "split"), default="none", help="work of idle workers")
    policy.add_argument("--claim", type=float, default=120.0, help="seconds until the claim of a lost node expires")
    policy.add_argument("--lose-part", action="store_true", help="a retry starts again: written rows are lost")
    found.add_argument("--seed", type=int, default=1)
    found.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page of all tables, and ignore the rest"
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write the outcome")
    return found


def job_of(options: argparse.Namespace) -> Job:
    """Return the job that the options describe. Raises ValueError for options that contradict each other."""
    lengths: Lengths = Lengths.read(options.lengths) if options.lengths else LENGTHS[options.job]
    if options.shared is not None:
        lengths = replace(lengths, shared=options.shared)
    return Job(
        lengths, options.rows,
        max(1, round(options.shard_tokens / lengths.mean)) if options.shard_tokens else options.shard_rows,
        MEASURED[options.rates], options.threads, options.efficiency, options.batch,
        Cluster(
            options.nodes, options.workers, options.cores, options.sockets, MEASURED[options.rates].load, 0.1,
            options.slow, options.slow_speed,
        ),
        Faults(options.losses, options.interruptions, options.notice, options.replacement, poison=options.poison),
        Policy(options.index, options.longest_first, options.tail, options.claim, not options.lose_part),
        options.bandwidth, options.interference, options.imbalance, price=options.price, seed=options.seed,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Simulate one job and print its row, or write the page."""
    command = parser()
    options = command.parse_args(arguments)
    if options.markdown:
        options.markdown.write_text(page(), encoding="utf-8")
        return
    try:
        job = job_of(options)
        outcome = job.simulate()
    except (ValueError, OSError) as error:
        command.error(str(error))
    print(table("job", [row(options.job if not options.lengths else options.lengths.name, job, outcome)]))
    if options.json:
        options.json.write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
