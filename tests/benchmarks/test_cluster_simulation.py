"""``benchmarks/cluster_simulation.py``: known closed forms, and what must hold for every job."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import cluster_report
from cluster_events import Simulation
from cluster_jobs import LABEL, REWRITE, Job
from cluster_measured import RUNS
from cluster_parts import DAY, Cluster, Faults, Outcome, Policy, Shard, Tail
from cluster_rates import MEASURED, Lengths, Rates, Row, ShardTimes, batch_seconds
from cluster_simulation import main

RATES = Rates("test", "scalar", 1, 100.0, ((1, 0.1), (4, 0.1), (8, 0.2)), 1.0, 0.0, "none")
TAILS: tuple[Tail, ...] = ("none", "copies", "split")
BAD = Faults(losses=400, interruptions=300, notice=5, replacement=30, poison=5)


def shards(count: int, work: float = 10.0, rows: int = 10) -> list[Shard]:
    return [Shard(rows, work) for _ in range(count)]


def uneven(count: int, seed: int = 3) -> list[Shard]:
    source = random.Random(seed)
    return [Shard(source.randrange(2, 40), source.uniform(5, 60)) for _ in range(count)]


def test_one_worker_takes_the_sum_of_all_work() -> None:
    found = Simulation(uneven(20), Cluster(load=3, cores=4)).run()
    assert found.makespan == pytest.approx(3 + found.work)
    assert found.core_seconds == pytest.approx(4 * found.makespan)
    assert found.tail == 0


@pytest.mark.parametrize("index", [False, True])
def test_equal_shards_on_equal_workers(index: bool) -> None:
    found = Simulation(shards(48), Cluster(nodes=4, workers=3, load=2), policy=Policy(index=index)).run()
    assert found.makespan == pytest.approx(2 + 4 * 10)
    assert (found.tail, found.lost, found.duplicate, found.attempts) == (0, 0, 0, 48)


def test_makespan_is_within_the_bounds_of_list_scheduling() -> None:
    plan = uneven(101)
    longest, total = max(shard.work for shard in plan), sum(shard.work for shard in plan)
    for order in (False, True):
        found = Simulation(uneven(101), Cluster(nodes=7), policy=Policy(longest_first=order)).run()
        assert total / 7 <= found.makespan <= total / 7 + longest * 6 / 7 + 1e-9


def test_a_killed_worker_costs_its_work_or_the_texts_in_flight() -> None:
    kill, cluster = Faults(kills=[(4.0, 0)]), Cluster(restart=1)
    again = Simulation(shards(2), cluster, kill, Policy(keep_part=False)).run()
    assert again.makespan == pytest.approx(25)
    assert again.lost == pytest.approx(4)
    assert again.recovery == pytest.approx((1,))
    kept = Simulation(shards(2), cluster, kill, Policy(in_flight=0.5)).run()
    assert kept.makespan == pytest.approx(21.5)
    assert kept.lost == pytest.approx(0.5)


def test_shards_of_a_lost_node_wait_for_its_claim() -> None:
    def first_loss(seed: int, generation: int) -> float:
        return random.Random(f"{seed} node 0 {generation}").expovariate(1.0)

    seed = next(seed for seed in range(1000) if first_loss(seed, 1) > 30 * first_loss(seed, 0))
    faults = Faults(losses=DAY * first_loss(seed, 0) / 4.0, replacement=5)  # node 0 is lost after 4 s, and not again
    pull = Simulation([Shard(1, 10.0)], Cluster(), faults, Policy(claim=60), seed=seed).run()
    assert pull.losses == 1
    assert pull.recovery == pytest.approx((60,))
    index = Simulation([Shard(1, 10.0)], Cluster(), faults, Policy(claim=60, index=True), seed=seed).run()
    assert index.losses == 1
    assert index.recovery == pytest.approx((5,))


def test_a_notice_saves_the_work_and_the_wait() -> None:
    def run(faults: Faults) -> Outcome:
        policy = Policy(in_flight=1.0, claim=100)
        return Simulation(shards(400, 30), Cluster(nodes=6, workers=2), faults, policy, seed=4).run()

    with_notice, without = run(Faults(interruptions=200)), run(Faults(losses=200))
    assert with_notice.interruptions > 3
    assert without.losses > 3
    assert with_notice.lost == 0 < without.lost
    assert max(with_notice.recovery) < 100 <= max(without.recovery)
    assert run(Faults(interruptions=200, notice=1.0)).lost > 0  # too short for the texts under way


def test_workers_of_a_socket_share_its_bandwidth() -> None:
    """Shards of 10 and 20 s at half speed together: 20 s for the first, and 10 s alone for the rest of the second."""
    plan = [Shard(1, 10.0), Shard(1, 20.0)]
    shared = Cluster(workers=2, slowdown=lambda active: float(active))
    assert Simulation(plan, shared).run().makespan == pytest.approx(30)
    apart = replace(shared, sockets=2)
    assert Simulation([Shard(1, 10.0), Shard(1, 20.0)], apart).run().makespan == pytest.approx(20)


def test_a_row_that_kills_its_process_is_quarantined() -> None:
    found = Simulation(shards(6), Cluster(workers=2, restart=1), Faults(poison=2), Policy(in_flight=0.2)).run()
    assert found.finished
    assert (found.rows, found.quarantined) == (58, 2)
    assert found.attempts == 6 + 2 * 2


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_every_row_is_computed_once(tail: Tail, keep: bool, seed: int) -> None:
    plan = uneven(120)
    rows, work = sum(shard.rows for shard in plan), sum(shard.work for shard in plan)
    policy = Policy(tail=tail, keep_part=keep, claim=7, in_flight=0.5, longest_first=bool(seed % 2))
    cluster = Cluster(nodes=6, workers=3, load=2, restart=1, slow=0.4, slow_speed=0.3, sockets=2)
    found = Simulation(plan, cluster, BAD, policy, seed=seed, observe=check_idle).run()
    assert found.finished
    assert found.rows + found.quarantined == rows
    assert found.quarantined == 5
    assert found.work == pytest.approx(work)
    assert sum(shard.rows for shard in plan) <= rows  # splits move rows to new shards


@pytest.mark.parametrize("seed", range(4))
def test_index_mode_computes_every_row_once(seed: int) -> None:
    plan = uneven(90)
    rows = sum(shard.rows for shard in plan)
    cluster = Cluster(nodes=5, workers=2, load=2, restart=1)
    found = Simulation(plan, cluster, BAD, Policy(index=True), seed=seed, observe=check_idle).run()
    assert found.rows + found.quarantined == rows
    assert found.attempts > 90


def check_idle(simulation: Simulation) -> None:
    """No worker that is ready is idle while a shard waits for one."""
    for node in simulation.nodes:
        if node and node.up and simulation.now > node.start + simulation.cluster.load:
            queue = simulation.queues[node.place % len(simulation.queues)]
            for worker in node.workers:
                assert not (queue and worker.up and worker.shard is None)
    running = sum(worker.shard is not None for node in simulation.nodes if node for worker in node.workers)
    assert running == sum(len(shard.running) for shard in simulation.shards)


def test_idle_workers_shorten_the_tail() -> None:
    def makespan(tail: Tail) -> float:
        cluster = Cluster(nodes=4, slow=0.25, slow_speed=0.1)
        return Simulation(shards(8, 100, 100), cluster, policy=Policy(tail=tail, in_flight=0.1)).run().makespan

    assert makespan("none") == pytest.approx(1000)
    assert makespan("copies") == pytest.approx(300)  # a copy starts after 200 s
    assert 800 / 3.1 < makespan("split") < 290  # between even work on all, and copies


def test_the_loser_of_two_copies_is_counted_as_duplicate() -> None:
    cluster = Cluster(nodes=2, slow=0.5, slow_speed=0.1)
    found = Simulation([Shard(5, 10.0), Shard(7, 10.0)], cluster, policy=Policy(tail="copies")).run()
    assert found.makespan == pytest.approx(20)
    assert found.rows == 12
    assert found.duplicate == pytest.approx(2)  # 20 s at a tenth of the speed


def mean(run: Callable[[int], float], seeds: int = 8) -> float:
    return sum(run(seed) for seed in range(seeds)) / seeds


def test_more_faults_take_longer_and_more_nodes_less_time() -> None:
    def makespan(losses: float, nodes: int, keep: bool = True) -> float:
        def run(seed: int) -> float:
            policy = Policy(claim=20, in_flight=1, keep_part=keep)
            return (
                Simulation(uneven(80), Cluster(nodes=nodes, load=2), Faults(losses), policy, seed=seed).run().makespan
            )

        return mean(run)

    rates = [makespan(losses, 4) for losses in (0, 50, 200, 800)]
    assert rates == sorted(set(rates))
    sizes = [makespan(50, nodes) for nodes in (16, 8, 4, 2, 1)]
    assert sizes == sorted(set(sizes))
    assert makespan(200, 4) < makespan(200, 4, keep=False)


def test_a_job_that_cannot_end_is_given_up() -> None:
    found = Simulation(shards(1, 1e5), Cluster(), Faults(losses=100), Policy(keep_part=False), limit=DAY).run()
    assert (found.finished, found.rows, found.makespan) == (False, 0, DAY)


def test_index_mode_refuses_work_of_others() -> None:
    with pytest.raises(ValueError, match="index mode has no tail 'split'"):
        Simulation(shards(1), Cluster(), policy=Policy(index=True, tail="split"))


def test_the_same_seed_gives_the_same_outcome() -> None:
    job = Job(rows=3_000_000, faults=Faults(losses=50, interruptions=50, poison=3), shard_rows=1000)
    assert job.simulate() == job.simulate()
    assert replace(job, seed=2).simulate() != job.simulate()


def test_seconds_of_a_batch() -> None:
    """Four texts of 11 tokens two at a time: 20 steps of two, a tenth of a second each, and 40 tokens of prefill."""
    prefill, decode = batch_seconds([Row(10, 11)] * 4, RATES, 2)
    assert prefill == pytest.approx(0.4)
    assert decode == pytest.approx(2.0)
    assert batch_seconds([Row(5, 1), Row(5, 0)], RATES, 2) == pytest.approx((0.1, 0.0))


def test_steps_between_and_beyond_measured_sizes() -> None:
    assert [RATES.step(batch) for batch in (1, 3, 4, 6, 8, 16)] == pytest.approx([0.1, 0.1, 0.1, 0.15, 0.2, 0.4])
    twice = RATES.with_threads(4, 0.9)
    assert twice.prefill == pytest.approx(324)
    assert twice.step(1) == pytest.approx(0.1 / 3.24)


def test_large_shards_continue_the_small_ones() -> None:
    """A shard of many rows, computed from means, agrees with the same rows one by one."""
    times = ShardTimes(Lengths(50, 30, 0.5, shared=100), RATES, 4)
    rows = times.lengths.draw(20_000, random.Random(5))
    estimates = [times.seconds(20_000, random.Random(seed)) for seed in range(20)]
    assert times.exact(rows) == pytest.approx(sum(estimates) / 20, rel=0.03)


def test_a_step_cannot_outrun_the_memory() -> None:
    """Eight workers that read 1 GB a step of 0.1 s want 80 GB/s."""
    times = ShardTimes(Lengths(1, 10_000, 0), RATES, 4)
    assert times.slowdown(8, 80, 0, 8) == pytest.approx(1)
    assert times.slowdown(8, 40, 0, 8) == pytest.approx(2, rel=0.01)
    assert times.slowdown(8, 40, 0.1, 1) == pytest.approx(1)
    assert times.slowdown(8, 80, 0.1, 8) == pytest.approx(1.1)


@pytest.mark.parametrize("run", [run for run in RUNS if not run.fitted], ids=lambda run: run.title)
def test_measured_runs_are_reproduced(run: object) -> None:
    found = next(one for one in RUNS if one is run)
    assert found.predict() == pytest.approx(found.middle, rel=0.1)


def test_the_plan_has_every_row() -> None:
    job = Job(rows=100_001, shard_rows=1000, lengths=REWRITE)
    assert [shard.rows for shard in job.shards()] == [1000] * 100 + [1]
    assert job.rates == MEASURED["documented-avx512_vnni"]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths, outcome = tmp_path / "lengths.jsonl", tmp_path / "outcome.json"
    lengths.write_text('{"prompt": 90, "output": 10}\n{"prompt": 60, "output": 40}\n')
    fields = [
        "--lengths",
        str(lengths),
        "--rows",
        "1e5",
        "--shard-tokens",
        "1e5",
        "--nodes",
        "3",
        "--json",
        str(outcome),
    ]
    main(fields)
    printed = capsys.readouterr().out
    assert json.loads(outcome.read_text())["rows"] == 100_000
    assert "| lengths.jsonl | 100 |" in printed
    main(fields)
    assert capsys.readouterr().out == printed
    lengths.write_text('{"prompt": 90, "output": 10}\n{"prompt": 60}\n')
    with pytest.raises(SystemExit):
        main(fields)
    assert "lengths.jsonl:2: expected integers" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--index", "--tail", "split"])
    assert "index mode has no tail" in capsys.readouterr().err


def test_the_page_has_all_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(Job(rows=200_000, lengths=LABEL), cluster=Cluster(nodes=2, workers=2, cores=8, load=1))
    monkeypatch.setattr(cluster_report, "Job", lambda **changes: replace(small, **changes))
    page = cluster_report.page()
    assert page.count("| shards | hours |") == 5
    assert "nan" not in page
    assert "{" not in page
