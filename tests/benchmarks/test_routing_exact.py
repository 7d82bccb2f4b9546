"""The benchmark of routing, as it is run but with a few orders."""

from benchmarks import routing_exact
from benchmarks.routing_exact import Agreement, Figures, Latency
from benchmarks.using import computer


def test_methods_are_compared_and_none_disagrees() -> None:
    told: list[str] = []
    found = routing_exact.exactness(8, seed=1, tell=told.append)
    assert [(one.method, one.reference) for one in found if one.method != "dp, numba"] == [
        ("dp, numpy", "cp-sat"),
        ("sets", "cp-sat"),
        ("parcels", "cp-sat"),
        ("cp-sat", "every plan"),
        ("optimiser", "every plan"),
    ]
    assert all(one.compared + one.left + one.undecided == 8 for one in found)
    assert sum(one.mismatches for one in found) == 0
    assert len(told) == 4


def test_a_disagreement_is_no_good_run() -> None:
    agreed = Agreement(
        method="dp",
        reference="cp-sat",
        orders="few",
        compared=8,
        mismatches=0,
        without_plan=1,
        left=0,
        undecided=0,
    )
    wrong = agreed.model_copy(update={"mismatches": 1})
    assert routing_exact.good(figures_of(agreed))
    assert not routing_exact.good(figures_of(agreed, wrong))


def figures_of(*agreements: Agreement) -> Figures:
    return Figures(
        quick=True,
        measured_at="now",
        seconds=1,
        machine=computer(),
        others_cpu_percent=0,
        agreements=agreements,
        latencies=(),
        ratios=(),
    )


def test_the_ratio_is_that_of_the_medians() -> None:
    taken = [
        Latency(
            method=method, lines=lines, nodes=nodes, services=1, orders=1, proven=1,
            p50_ms=median, p99_ms=9, longest_ms=9, cpu_p50_ms=median, cpu_p99_ms=9,
        )
        for lines, nodes in ((1, 5), (3, 10), (5, 25), (10, 25), (10, 50))
        for method, median in (("dp, numpy", 2.0), ("dp, numba", 0.5), ("cp-sat, tuned", 30.0))
    ]  # fmt: skip
    assert {(one.on_numpy, one.compiled) for one in routing_exact.ratios(taken)} == {(15.0, 60.0)}
    without = [one for one in taken if one.method != "dp, numba"]
    assert {one.compiled for one in routing_exact.ratios(without)} == {None}


def test_processes_share_the_work_and_their_counts_are_added_up() -> None:
    found = routing_exact.exactness(3, seed=1, tell=lambda _: None, processes=2)
    assert {(one.compared + one.left + one.undecided, one.mismatches) for one in found} == {(3, 0)}
