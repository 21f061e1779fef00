"""What concerns a whole run: its figures, and its Hypothesis profile, chosen by HYPOTHESIS_PROFILE.

`dev` (the default) is quick, `ci` tries the same examples on each run, `deep` looks for what the others miss.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "dev",
    max_examples=50,
    stateful_step_count=30,
    deadline=None,  # pytest's timeout ends what hangs; a busy machine fails nothing
    suppress_health_check=[HealthCheck.too_slow],  # judges the machine as well
)
settings.register_profile(
    "ci",
    settings.get_profile("dev"),
    max_examples=200,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    print_blob=True,
)
settings.register_profile(
    "deep",
    settings.get_profile("dev"),
    max_examples=10_000,
    stateful_step_count=100,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "dev")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have recorded, by `record_property("figure", …)`, beside each other."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name == "figure":
                        terminalreporter.write_line(str(value))
