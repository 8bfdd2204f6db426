"""From a submission to a job, and what two submissions with one key have in common."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.jobs.clients.submission import (
    JobOptions,
    Submission,
    digest_of,
    new_job,
    whole_ms,
)
from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.jobs.ids import is_job_id, made_ms, new_job_id
from penstock.shared.jobs.payload import JobInput
from penstock.shared.wire.messages import Parameters, Request
from penstock.shared.wire.tensors import Tensor

X = Tensor("x", "FP32", (1, 1), b"\0\0\0\0")
REQUEST = Request(0, 0, (X,))
SUBMISSION = Submission("m", None, "2", "r2", JobInput("", REQUEST), JobOptions())


def with_request(**changes: object) -> Submission:
    request = replace(REQUEST, **changes)  # type: ignore[arg-type]
    return replace(SUBMISSION, input=JobInput("", request))


def test_what_does_not_count() -> None:
    digest = digest_of(SUBMISSION)
    assert digest_of(with_request(traceparent="00-1-2-3", priority=1)) == digest
    assert digest_of(replace(SUBMISSION, input=JobInput("id", REQUEST))) == digest
    assert digest_of(replace(SUBMISSION, options=JobOptions(timeout_ms=5))) == digest
    assert digest_of(replace(SUBMISSION, version="3", revision="r3")) == digest


@pytest.mark.parametrize(
    "other",
    [
        with_request(inputs=(replace(X, data=b"\0\0\0\1"),)),
        with_request(inputs=(replace(X, shape=(1,)),)),
        with_request(outputs=("y",)),
        with_request(parameters=(("zoom", 2),)),
        replace(SUBMISSION, pin="2"),
    ],
)
def test_what_counts(other: Submission) -> None:
    assert digest_of(other) != digest_of(SUBMISSION)


scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.sampled_from([0.0, 1.0]), st.text())
parameters = st.dictionaries(st.text(), scalars, max_size=3).map(
    lambda found: tuple(sorted(found.items()))
)


@given(parameters, parameters)
def test_equal_parameters_have_equal_digests(one: Parameters, other: Parameters) -> None:
    same = [(name, type(value), value) for name, value in one] == [
        (name, type(value), value) for name, value in other
    ]
    digests = {digest_of(with_request(parameters=each)) for each in (one, other)}
    assert (len(digests) == 1) == same


def test_the_job() -> None:
    settings = JobSettings(jobs_result_ttl_s=7, jobs_attempts_max=4, jobs_idempotency_s=9)
    options = JobOptions(priority=2, timeout_ms=5, queue_ttl_ms=6, idempotency_key="k")
    job = new_job("id", replace(SUBMISSION, options=options, pin="2"), settings)
    assert (job.id, job.model, job.version, job.revision, job.pin) == ("id", "m", "2", "r2", "2")
    assert (job.priority, job.timeout_ms, job.queue_ttl_ms, job.max_attempts) == (2, 5, 6, 4)
    assert (job.result_ttl_ms, job.idempotency_ms) == (7000, 9000)
    keys = {
        new_job("id", replace(SUBMISSION, model=model, options=each), settings).idempotency
        for model in ("m", "n")
        for each in (options, replace(options, tenant="blue"), replace(options, idempotency_key=""))
    }
    assert len(keys) == 5
    assert "" in keys


def test_a_short_span_is_not_none() -> None:
    assert whole_ms(1e-9) == 1
    assert whole_ms(1.5) == 1500


def test_ids_tell_when_they_were_made() -> None:
    job_id = new_job_id()
    assert is_job_id(job_id)
    assert not is_job_id(job_id.upper() + "0")
    assert 0 < made_ms(job_id) < made_ms("f" * 32)
