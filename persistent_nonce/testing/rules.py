"""The rules that a request must keep when it arrives at the exchange.

Each can be switched off by its name:

    user_agent    a request names its client
    signature     API-Sign fits the raw body
    nonce         a nonce is greater than the last accepted, or within the window
    used_nonce    within the window a used nonce is not accepted again
    spent_nonce   a call refused by the counter or a throttle has used up its nonce
    counter       the calls of a key stay within its tier; failed ones count
    lockout       failures lock the key out for 15 minutes without any private call
    overlap       a key has one request in flight

Nobody has documented whether the real exchange keeps `used_nonce` and `spent_nonce`,
in which order it checks, or how many failures lock a key out; and it does not refuse an
overlap as such. Here an overlap uses up its nonce and is answered with an `EGeneral:
Internal error` that no other rule gives. That is in doubt, so that no client heals the
overlap by a second try that nobody sees.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from typing import Final

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.kraken import cost
from persistent_nonce.testing.account import Account
from persistent_nonce.testing.answers import PRIVATE
from persistent_nonce.testing.request import Request, sign
from persistent_nonce.testing.visits import Ruling, Visit

__all__ = ["ERRORS", "RULES", "Rules"]

#: The names of the rules.
RULES: Final = frozenset(
    {
        "user_agent",
        "signature",
        "nonce",
        "used_nonce",
        "spent_nonce",
        "counter",
        "lockout",
        "overlap",
    }
)

#: The error with which each verdict is answered; a throttle adds its end.
ERRORS: Final[Mapping[Ruling, str]] = {
    "bad_request": "EAPI:Bad request",
    "bad_signature": "EAPI:Invalid signature",
    "invalid_key": "EAPI:Invalid key",
    "invalid_nonce": "EAPI:Invalid nonce",
    "locked_out": "EGeneral:Temporary lockout",
    "no_user_agent": "EGeneral:Permission denied",
    "overlap": "EGeneral:Internal error:two requests of one key in flight",
    "rate_limited": "EAPI:Rate limit exceeded",
    "throttled": "EService: Throttled: ",
    "unknown_method": "EGeneral:Unknown method",
}

_FAILURES: Final = frozenset(
    {"bad_request", "bad_signature", "invalid_nonce", "unknown_method"}
)


class _BrokenRuleError(Exception):
    def __init__(self, verdict: Ruling) -> None:
        super().__init__(verdict)
        self.verdict: Final = verdict


class Rules:
    """The rules that are enforced.

    Args:
        relax: names of those that are not.
        lockout_after: failures within 60 s that lock a key out.
    """

    def __init__(self, *, relax: Collection[str], lockout_after: int) -> None:
        if isinstance(relax, str) or not RULES.issuperset(relax):
            raise ConfigurationError(
                "relax names an unknown rule", f"any of {', '.join(sorted(RULES))}"
            )
        if lockout_after < 1:
            raise ConfigurationError("lockout_after must be 1 or more")
        self._enforced = RULES.difference(relax)
        self._lockout_after = lockout_after

    def judge(self, visit: Visit, request: Request) -> None:
        """Set the verdict of a request, and charge the account for what it did."""
        account = visit.account
        try:
            if "user_agent" in self._enforced and not request.agent:
                raise _BrokenRuleError("no_user_agent")
            if account is None:
                raise _BrokenRuleError("invalid_key")
            self._check(visit, request, account)
        except _BrokenRuleError as refused:
            visit.verdict = refused.verdict
            visit.error = ERRORS[refused.verdict]
            if account is None:
                return
            if refused.verdict == "throttled":
                visit.error += str(account.throttled_until)
            if refused.verdict in _FAILURES and "lockout" in self._enforced:
                account.fail(visit.at, lockout_after=self._lockout_after)

    def _check(self, visit: Visit, request: Request, account: Account) -> None:
        if account.is_locked_out(visit.at):
            raise _BrokenRuleError("locked_out")
        within = account.charge(cost(visit.method), visit.at)
        self._check_signature(visit, request, account)
        limit: Ruling | None = None
        if visit.sent // SECOND < account.throttled_until:
            limit = "throttled"
        elif not within and "counter" in self._enforced:
            limit = "rate_limited"
        if limit and "spent_nonce" not in self._enforced:
            raise _BrokenRuleError(limit)
        self._check_nonce(visit, account)
        if limit:
            raise _BrokenRuleError(limit)
        if visit.overlapped and "overlap" in self._enforced:
            raise _BrokenRuleError("overlap")
        if visit.method not in PRIVATE:
            raise _BrokenRuleError("unknown_method")

    def _check_signature(
        self, visit: Visit, request: Request, account: Account
    ) -> None:
        try:
            visit.fields = request.fields()
        except ValueError:
            raise _BrokenRuleError("bad_request") from None
        nonce = visit.fields.get("nonce", "")
        right = sign(request.path, nonce, request.body, account.secret)
        # compare_digest takes text only in ASCII, and the header may hold anything.
        fits = hmac.compare_digest(right.encode(), request.signature.encode())
        if not fits and "signature" in self._enforced:
            raise _BrokenRuleError("bad_signature")

    def _check_nonce(self, visit: Visit, account: Account) -> None:
        reuse = "used_nonce" not in self._enforced
        fresh = visit.nonce is not None and account.is_fresh(visit.nonce, reuse=reuse)
        if not fresh and "nonce" in self._enforced:
            raise _BrokenRuleError("invalid_nonce")
        if visit.nonce is not None:
            account.accept(visit.nonce)
        account.last_used = visit.sent // SECOND
