"""What holds of two findings: a finding is only ever lowered, in whatever order they come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.findings import Finding, lower_of
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.worker.trial.unbatched import unbatched

SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))

SETS = st.sampled_from((("x",), ("x", "y"), ("y", "x"), ("z",)))


@st.composite
def findings(draw: st.DrawFn) -> Finding:
    rows = draw(st.integers(1, 6))
    interface = ModelInterface(
        inputs=(SPEC,), outputs=(SPEC,), max_batch_size=rows, platform="fake"
    )
    finding = Finding(
        interface=interface,
        static_rows=draw(st.sampled_from((None, 1, rows))),
        merges=draw(st.booleans()),
        rows_together=draw(st.one_of(st.none(), st.integers(1, 6))),
        chance=draw(st.booleans()),
        tried=draw(st.none() | st.lists(SETS, max_size=3, unique_by=frozenset).map(tuple)),
        reason=draw(st.sampled_from(("", "a reason"))),
        timings=draw(st.sampled_from(((), ((1, 0.5),)))),
    )
    return unbatched(finding, "it mixes rows") if draw(st.booleans()) else finding


@given(findings(), findings())
def test_which_of_two_findings_comes_first_does_not_matter(one: Finding, other: Finding) -> None:
    assert lower_of(one, other) == lower_of(other, one)


@given(findings(), findings(), findings())
def test_which_of_three_findings_are_put_together_first_does_not_matter(
    one: Finding, other: Finding, third: Finding
) -> None:
    assert lower_of(lower_of(one, other), third) == lower_of(one, lower_of(other, third))


@given(findings(), findings())
def test_a_finding_that_comes_again_changes_nothing(one: Finding, other: Finding) -> None:
    assert lower_of(one, one) == one
    lower = lower_of(one, other)
    assert lower_of(lower, one) == lower_of(lower, other) == lower


@given(findings(), findings())
def test_a_finding_is_never_raised(one: Finding, other: Finding) -> None:
    lower = lower_of(one, other)
    for each in (one, other):
        assert lower.rows_merged <= each.rows_merged
        assert lower.interface.max_batch_size <= each.interface.max_batch_size
        assert not each.is_lower_than(lower)
        if each.tried is not None:
            assert lower.tried is not None
            assert set(map(frozenset, lower.tried)) <= set(map(frozenset, each.tried))
    assert lower.rows_merged in (one.rows_merged, other.rows_merged)


@given(findings(), findings())
def test_what_is_not_batched_by_one_finding_is_passed_on_whole(
    one: Finding, other: Finding
) -> None:
    lower = lower_of(one, other)
    if not lower.interface.max_batch_size:
        assert (lower.static_rows, lower.merges) == (None, False)
