"""The Hypothesis profile of this run, chosen by HYPOTHESIS_PROFILE.

`dev` (the default) is quick, `ci` tries the same examples on each run, `deep` looks for what the others miss.
"""

from __future__ import annotations

import os

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
