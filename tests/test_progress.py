"""Progress reports double as places to stop."""

import pytest

from acestep.errors import Cancelled
from acestep.progress import CancelToken, Progress, Reporter


def test_reports_reach_the_caller_in_order() -> None:
    seen: list[Progress] = []
    report = Reporter(seen.append)
    report("rendering", 1, 8)
    report("decoding", 0, 2)
    assert seen == [Progress("rendering", 1, 8), Progress("decoding", 0, 2)]


def test_a_cancelled_run_stops_at_its_next_report_and_says_nothing_more() -> None:
    seen: list[Progress] = []
    token = CancelToken()
    report = Reporter(seen.append, token)
    report("rendering", 1, 8)
    token.cancel()
    with pytest.raises(Cancelled) as caught:
        report("rendering", 2, 8)
    assert caught.value.exit_code == 6 and len(seen) == 1
