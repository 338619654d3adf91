"""Problem documents and the OpenAI error object."""

from __future__ import annotations

import pytest

from shared import problems
from shared.problems import FieldError, Problem, from_status, is_openai_path, responses


def test_a_problem_names_what_where_and_how() -> None:
    problem = problems.NotFound(
        "There is no key key_1.", errors=[FieldError(location="path.id", message="unknown")]
    )
    document = problem.document(instance="/v1/keys/key_1", request_id="req_1")
    assert document == {
        "type": "urn:latticework:problem:not_found",
        "title": "There is no such thing",
        "status": 404,
        "detail": "There is no key key_1.",
        "instance": "/v1/keys/key_1",
        "code": "not_found",
        "errors": [{"location": "path.id", "message": "unknown"}],
        "request_id": "req_1",
    }


def test_openai_paths_get_openai_errors() -> None:
    problem = problems.BadRequest(
        "n is too large", errors=[FieldError(location="body.n", message="max 8")], code="n"
    )
    body, media_type = problem.body_for("/v1/chat/completions")
    assert media_type == "application/json"
    assert body == {
        "error": {"message": "n is too large", "type": "invalid_request_error", "param": "n", "code": "n"}
    }
    assert problem.body_for("/v1/keys")[1] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/models", True),
        ("/v1/models/default", True),
        ("/v1/modelsx", False),
        ("/v1/completions", True),
        ("/v1/engines", False),
    ],
)
def test_which_paths_are_openai(path: str, expected: bool) -> None:
    assert is_openai_path(path) is expected


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    assert problems.ServiceUnavailable(retry_after=0.2).headers["Retry-After"] == "1"
    assert problems.TooManyRequests(retry_after=12.4).headers["Retry-After"] == "12"


def test_every_status_has_a_problem_and_unknown_ones_fall_to_their_class() -> None:
    assert isinstance(from_status(404, "x"), problems.NotFound)
    assert isinstance(from_status(402, "x"), problems.BudgetExceeded)
    assert from_status(418, "x").status == 400
    assert from_status(599, "x").status == 500


def test_codes_are_distinct() -> None:
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, type) and issubclass(kind, Problem)]
    codes = [kind.code for kind in kinds if kind is not problems.InternalError]
    assert len(codes) == len(set(codes))


def test_responses_merge_problems_of_one_status() -> None:
    class Taken(problems.Conflict):
        code, title = "taken", "The name is taken"

    entries = responses(problems.Conflict, Taken)
    assert list(entries) == [409]
    assert "`conflict`" in entries[409]["description"]
    assert "`taken`" in entries[409]["description"]
