"""Requests that nobody would write: no crash and no hang, whatever is sent."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

MOST_S = 20.0  # for one request on a busy machine; those that wait for answers are told not to
NOTHING_TO_SPOIL = ("GET /api/state", "GET /api/corrections")  # they take nothing
NUM_EXAMPLES = 12  # of each operation, those that fit its schema and those that do not


def test_no_request_breaks_the_server(started_page):
    schema = schemathesis.openapi.from_url(f"{started_page.url}api/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    for operation in operations:
        fuzz(operation, GenerationMode.POSITIVE)
        if operation.label not in NOTHING_TO_SPOIL:
            fuzz(operation, GenerationMode.NEGATIVE)
    assert len(operations) == 11
    assert started_page.request("GET", "/api/state").status == 200


def fuzz(operation, mode):
    """Send cases of one operation."""

    @settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        if operation.label == "POST /api/ask" and isinstance(case.body, dict):
            case.body["wait_s"] = 0
        case.validate_response(case.call(timeout=MOST_S), checks=[not_a_server_error])

    check()
