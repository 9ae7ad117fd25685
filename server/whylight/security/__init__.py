"""Who may ask for what: bearer tokens, their scopes and their rates; knows neither gRPC nor any service.

`Access` is the one question that every listener asks: ``access.check(token, Scope.ADMIN)``.
"""

from whylight.security.access import Access, bearer_token
from whylight.security.caller import ANONYMOUS, Caller, current_caller, set_caller
from whylight.security.rates import Rates
from whylight.security.scope import Scope
from whylight.security.token_file import TokenFileError

__all__ = [
    "ANONYMOUS",
    "Access",
    "Caller",
    "Rates",
    "Scope",
    "TokenFileError",
    "bearer_token",
    "current_caller",
    "set_caller",
]
