"""The page of simulated jobs, docs/cluster-simulation.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cluster_jobs import LABEL, REWRITE, Job
from cluster_measured import RUNS
from cluster_parts import Cluster, Faults, Outcome, Policy
from cluster_rates import MEASURED

COLUMNS = (
    "shards", "hours", "of ideal", "core-hours", "dollars", "tail, min", "nodes lost", "retries", "work done again",
    "recovery: mean, max, s",
)  # fmt: skip

PAGE = """# Batch jobs on many machines: a simulation

Time, cost, tail and recovery of jobs of 10⁹ rows on 100 nodes, from rates measured on one machine. This page is
written by `benchmarks/cluster_simulation.py`, a discrete event simulation. To repeat it:

```sh
python benchmarks/cluster_simulation.py --markdown docs/cluster-simulation.md
```

**Nothing on this page ran on a cluster or over a real network.** The measurements behind it are of one machine
with two cores.

## Rates

{rates}

Steps of other batch sizes are interpolated linearly, and continued beyond the last.

## Predicted and measured

{measured}

{notes}

## A billion rows

{conditions}

{billion}

The tail is about as long as a shard, so shards should take minutes. A loss costs little, because a retry continues
after the rows that are written. *Recovery* is the time from the loss of a running shard until a worker has it again.

## Written rows lost

The same job, if a retry starts its shard again because the rows of the lost attempt were on the lost node:

{restarted}

## Spot interruptions

With a notice, workers finish their texts and give their shards back at once. Without one, shards wait until the
claim expires. The same price a core-hour is used in every row.

{spot}

## Stragglers and the tail

Nodes at half speed. *Copies* are second attempts of running shards (speculative execution): both write the same
bytes, so that either may end first. *Split* gives half of the remaining rows of the shard that ends last to a
worker without work. `pyml batch` does neither. *Longest first* knows the real work of every shard; a plan knows its
estimates only, which are equal here.

{tail}

## Pull and index

In index mode (`--index i --of N`), node i has the shards i, i + N, ... and no other node takes them. There is no
coordinator, but a slow or lost node delays its own shards.

{index}

## Assumptions

- A row costs its tokens / the rate of prefill, and decode steps of a full batch; a shard drains its batch at
  the end, and computes a common instruction once. Within a shard, work is done at an even rate.
- Workers of {threads} threads: each doubling of threads keeps {efficiency:.0%} of the speed per thread, as
  measured from one to two. **More threads were not measured.**
- A socket has {bandwidth:.0f} GB/s: a decode step cannot be shorter than reading the weights of all its active
  workers. Next to workers on all other cores a worker loses {interference:.0%}. **A node with more than two
  cores was not measured**; measure one before relying on the totals.
- The work of shards deviates by {imbalance:.0%} from the plan's estimate (gamma distribution). Lengths are
  log-normal with a deviation of half their mean.
- Losses and interruptions of nodes are independent and have a constant rate. Real ones come in groups.
- A node is replaced {replacement:.0f} s later and loads for {load:.0f} s, claims expire after {claim:.0f} s. A
  retry computes half of the rows of a batch again.
- Storage, downloads of the model, claims on a shared folder and their contention are not simulated; {overhead}
  s a shard stand for claim, fsync and rename.
- A core-hour costs {price} dollars. Nodes are paid from their start until their last work.
"""


def duration(seconds: float) -> str:
    """Return hours."""
    return f"{seconds / 3600:.2f}"


def row(title: str, job: Job, outcome: Outcome) -> Sequence[str]:
    """Return the cells of a job."""
    recovery = outcome.recovery
    mean = f"{sum(recovery) / len(recovery):.0f}, {max(recovery):.0f}" if recovery else "-"
    return (
        title,
        f"{outcome.shards:,}".replace(",", " "),
        duration(outcome.makespan) if outcome.finished else f"more than {duration(outcome.makespan)}",
        f"{outcome.makespan / job.ideal(outcome):.3f}x",
        f"{outcome.core_seconds / 3600:,.0f}".replace(",", " "),
        f"{job.cost(outcome):,.0f}".replace(",", " "),
        f"{outcome.tail / 60:.1f}",
        str(outcome.losses + outcome.interruptions),
        str(len(recovery)),
        f"{(outcome.lost + outcome.duplicate) / outcome.work:.3%}",
        mean,
    )


def table(first: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of :func:`row`."""
    lines = [f"| {first} | {' | '.join(COLUMNS)} |", "|---" + "|--:" * len(COLUMNS) + "|"]
    return "\n".join(lines + [f"| {' | '.join(cells)} |" for cells in rows])


def page() -> str:
    """Simulate everything and return the page."""
    job = Job(shard_rows=30_000)
    node = job.cluster
    return PAGE.format(
        rates=_rates(),
        measured=_measured(),
        notes=NOTES,
        conditions=_conditions(job),
        billion=table("rows a shard, losses a day", _billion(job)),
        restarted=table("rows a shard, losses a day", _restarted(job)),
        spot=table("interruptions a day, notice", _spot(job)),
        tail=table("slow nodes, rows a shard, tail", _tail(job)),
        index=table("mode, slow nodes, losses a day", _index(job)),
        threads=job.threads, efficiency=job.efficiency, bandwidth=job.bandwidth, interference=job.interference,
        imbalance=job.imbalance, replacement=job.faults.replacement, load=node.load, claim=job.policy.claim,
        overhead=job.overhead, price=job.price,
    )  # fmt: skip


NOTES = """The 300 rows are an earlier run at level avx2; its lengths were not kept, and are drawn with their sums. The
record of the killed run does not say into how many shards it was divided or how its worker came back; four shards that
start again, and a new load of the model, are assumed.

The 2 000 rows are `pyml batch run -w 2 -t 1`. Its rates were measured with three short jobs. The machine had much other
work (load average 8 to 19 on two cores), so that wall time was 460 s and says nothing; compared are processor seconds,
without those of the load. On a quiet machine the run was not measured.

These rates include everything that a job does. Two such threads prefill 2 750 tokens/s of short prompts: at that rate,
instead of the documented 4 170, *label* below would take 1.5 times as long."""


def _conditions(job: Job) -> str:
    node = job.cluster
    return (
        f"{node.nodes} nodes of {node.cores} cores on one socket, {node.workers} workers of {job.threads} threads, "
        f"{job.batch} texts at a time each, level {job.rates.level}. *Label* has {LABEL.prompt:.0f} tokens in and "
        f"{LABEL.output:.0f} out; *rewrite* {REWRITE.prompt + REWRITE.shared:.0f} in, {REWRITE.shared} of them an "
        f"instruction in common, and {REWRITE.output:.0f} out. Losses are without notice. *Of ideal*: the time divided "
        "by that of the same work spread evenly, without loads, faults and tail."
    )


def _rates() -> str:
    lines = [
        "| rates | threads | prefill, tokens/s | decode, tokens/s | load, s | source |",
        "|---|--:|--:|---|--:|---|",
    ]
    for rates in MEASURED.values():
        decode = ", ".join(f"{batch / step:.0f} (batch of {batch})" for batch, step in rates.steps)
        lines.append(
            f"| {rates.name} | {rates.threads} | {rates.prefill:.0f} | {decode} | {rates.load} | {rates.source} |"
        )
    return "\n".join(lines)


def _measured() -> str:
    lines = ["| run | measured, s | predicted, s | difference |", "|---|---|--:|--:|"]
    for run in RUNS:
        seconds = ", ".join(f"{value:.1f}" for value in run.seconds)
        predicted = run.predict()
        difference = "fitted" if run.fitted else f"{predicted / run.middle - 1:+.1%}"
        lines.append(f"| {run.title} | {seconds} | {predicted:.1f} | {difference} |")
    return "\n".join(lines)


def _days(job: Job, rate: float) -> str:
    return f"{rate * job.cluster.nodes:g}"


def _rows(job: Job, title: str, lengths_name: str = "label") -> Sequence[str]:
    return row(f"{lengths_name}, {title}", job, job.simulate())


def _thousands(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _billion(job: Job) -> Iterable[Sequence[str]]:
    for name, lengths in (("label", LABEL), ("rewrite", REWRITE)):
        for size in (10_000, 30_000, 100_000):
            for rate in (0.0, 0.03, 1.0):
                one = replace(job, lengths=lengths, shard_rows=size, faults=Faults(losses=rate))
                yield _rows(one, f"{_thousands(size)}, {_days(job, rate)}", name)


def _restarted(job: Job) -> Iterable[Sequence[str]]:
    lost = replace(job.policy, keep_part=False)
    for size in (30_000, 100_000):
        for rate in (0.03, 1.0):
            one = replace(job, lengths=REWRITE, shard_rows=size, faults=Faults(losses=rate), policy=lost)
            yield _rows(one, f"{_thousands(size)}, {_days(job, rate)}", "rewrite")


def _spot(job: Job) -> Iterable[Sequence[str]]:
    for rate in (0.3, 3.0):
        for notice in (120.0, 0.0):
            faults = Faults(interruptions=rate, notice=notice) if notice else Faults(losses=rate)
            title = f"{_days(job, rate)}, {f'{notice:.0f} s' if notice else 'none'}"
            yield _rows(replace(job, lengths=REWRITE, faults=faults), title, "rewrite")


def _tail(job: Job) -> Iterable[Sequence[str]]:
    for share in (0.0, 0.05):
        for size in (30_000, 100_000):
            for order, policy in (
                ("plan order", Policy()),
                ("longest first", Policy(longest_first=True)),
                ("copies", Policy(tail="copies")),
                ("split", Policy(tail="split")),
            ):
                cluster: Cluster = replace(job.cluster, slow=share)
                yield _rows(
                    replace(job, shard_rows=size, cluster=cluster, policy=policy),
                    f"{share:.0%}, {_thousands(size)}, {order}",
                )


def _index(job: Job) -> Iterable[Sequence[str]]:
    for share in (0.0, 0.05):
        for rate in (0.0, 1.0):
            for mode in ("pull", "index"):
                policy = replace(job.policy, index=mode == "index")
                one = replace(job, cluster=replace(job.cluster, slow=share), faults=Faults(losses=rate), policy=policy)
                yield _rows(one, f"{mode}, {share:.0%}, {_days(job, rate)}")
