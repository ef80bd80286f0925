"""When a server says to come again."""

from __future__ import annotations

import pytest

from servicekit.retry_after import seconds_asked


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("86401", 86_400),
        ("9" * 400, 86_400),
        ("Fri, 12 Jun 2026 14:33:00 GMT", 60),
        ("Fri, 12 Jun 2026 14:33:00 -0000", 60),
        ("Fri, 12 Jun 2026 14:31:00 GMT", 0),
        ("Fri, 12 Jun 2099 14:31:00 GMT", 86_400),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Fri, 99 Jun 2026 14:33:00 GMT", None),
    ],
)
def test_reads_seconds_and_dates_up_to_a_day(header, seconds, clock):
    assert seconds_asked(header, clock.now()) == seconds
