"""The stored settings of a key: followed, refused, changed for all."""

from __future__ import annotations

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ConfigurationError, UnitMismatchError
from persistent_nonce.settings import configure, set_tier
from persistent_nonce.state import KeyState, Rate, Turn, Wanted
from tests.support.states import KEY, at, fresh

NOW = at()

STARTER = Rate(3.0, 14, "starter")
PRO = Rate(1.0, 19, "pro")


def test_the_first_opinion_is_stored() -> None:
    """What nobody has said before is stored, all of it."""
    wanted = Wanted(
        unit="us",
        label="bot",
        min_interval=SECOND,
        rate=STARTER,
        attempts=5,
        max_lead=60 * SECOND,
        greatest=2**53 - 1,
    )
    state = configure(KeyState(KEY), wanted)
    assert state == KeyState(
        KEY,
        label="bot",
        unit="us",
        min_interval=SECOND,
        every=3 * SECOND,
        burst=14,
        tier="starter",
        attempts=5,
        max_lead=60 * SECOND,
        greatest=2**53 - 1,
    )
    assert configure(state, wanted) == state


def test_no_opinion_changes_nothing() -> None:
    """A caller without an opinion follows what is stored, and stores nothing."""
    state = configure(KeyState(KEY), Wanted(unit="us", rate=PRO, attempts=2))
    assert configure(state, Wanted()) is state
    assert configure(KeyState(KEY), Wanted()) == KeyState(KEY)


def test_a_default_rate_is_only_for_a_key_without_one() -> None:
    """A default yields to what is stored, and is stored where nothing is."""
    state = configure(KeyState(KEY), Wanted(default_rate=STARTER))
    assert state.rate == STARTER
    assert configure(state, Wanted(default_rate=PRO)) is state
    chosen = configure(KeyState(KEY), Wanted(rate=PRO, default_rate=STARTER))
    assert chosen.rate == PRO


def test_a_default_unit_is_only_for_a_key_without_one() -> None:
    """A client's own unit yields to what is stored and to what is asked for, and is stored where there is neither."""
    state = configure(KeyState(KEY), Wanted(default_unit="10ns"))
    assert state.unit == "10ns"
    assert configure(state, Wanted(default_unit="ms")) is state
    chosen = configure(KeyState(KEY), Wanted(unit="us", default_unit="10ns"))
    assert chosen.unit == "us"


def test_another_unit() -> None:
    """Another unit is refused with both named, in either direction; set-unit is a way out for the finer one only."""
    state = KeyState(KEY, unit="us")
    for unit, hint in (
        ("ms", "since set-unit changes it to a finer one only"),
        ("ns", f"or change it for all with: persistent-nonce set-unit {KEY} ns"),
    ):
        with pytest.raises(UnitMismatchError, match=f"us, not {unit}.*{hint}"):
            configure(state, Wanted(unit=unit))


@pytest.mark.parametrize(
    ("state", "wanted", "name"),
    [
        (KeyState(KEY, min_interval=1), Wanted(min_interval=2), "min_interval"),
        (KeyState(KEY, min_interval=0), Wanted(min_interval=2), "min_interval"),
        (KeyState(KEY, attempts=3), Wanted(attempts=4), "attempts"),
        (KeyState(KEY, max_lead=0), Wanted(max_lead=1), "max_lead"),
        (KeyState(KEY, greatest=8), Wanted(greatest=9), "greatest"),
        (KeyState(KEY, every=SECOND, burst=19), Wanted(rate=STARTER), "rate"),
        (KeyState(KEY, every=SECOND, burst=18), Wanted(rate=PRO), "rate"),
    ],
)
def test_a_contradiction(state: KeyState, wanted: Wanted, name: str) -> None:
    """Two programs cannot pace one key differently: the error names the setting and the way out."""
    option = "TIER" if name == "rate" else f"--{name.replace('_', '-')}"
    hint = rf"{name}.*: persistent-nonce set-tier {KEY} {option}"
    with pytest.raises(ConfigurationError, match=hint):
        configure(state, wanted)


def test_the_same_opinion() -> None:
    """An opinion equal to the stored one is none; the name of a tier does not count."""
    state = configure(KeyState(KEY), Wanted(rate=PRO, min_interval=7))
    again = Wanted(rate=Rate(1.0, 19, "another name"), min_interval=7)
    assert configure(state, again) is state


def test_a_label_is_display_only() -> None:
    """Another label renames the key and contradicts nothing."""
    state = configure(KeyState(KEY, label="old"), Wanted(label="new"))
    assert state == KeyState(KEY, label="new")


def test_set_tier() -> None:
    """Each setting is changed alone, what is None stays, and whose turn it is begins anew."""
    state = KeyState(KEY, attempts=3, max_lead=1, turn=Turn("a", 5))
    assert set_tier(state, NOW) == state._replace(turn=None)
    assert set_tier(state, NOW, rate=PRO).rate == PRO
    assert set_tier(state, NOW, rate=PRO).attempts == 3
    changed = set_tier(state, NOW, min_interval=0, attempts=9, max_lead=0, greatest=7)
    assert changed == state._replace(
        min_interval=0, attempts=9, max_lead=0, greatest=7, turn=None
    )


def test_set_tier_keeps_what_was_counted() -> None:
    """Calls that were counted at one rate count at the next: the exchange has not forgotten them (I6)."""
    state = fresh(rate=STARTER)._replace(tat=NOW.mono + 9 * SECOND)  # three calls
    assert set_tier(state, NOW, rate=PRO).tat == NOW.mono + 3 * SECOND
    assert set_tier(fresh(), NOW, rate=PRO).tat == NOW.mono
