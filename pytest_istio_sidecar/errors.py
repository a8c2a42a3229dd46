"""Every exception this package raises on purpose.

    IstioSidecarError
    ├── ParseError           text that is not a usable iptables listing
    ├── UsageProblem         an option, argument or file that cannot be meant
    ├── Undecided            the evidence allows no verdict
    ├── EnvironmentProblem   what should be read could not be brought up or read
    └── VerdictAgainst       (also AssertionError) the evidence says no
        ├── BypassError          traffic gets past Envoy
        ├── RedirectError        traffic is redirected, but not where it should be
        ├── RuleSetMismatch      rules are not what was expected
        ├── ListenerMismatch     Envoy does not listen as the rules need
        └── NotIntercepted       a real request was not seen by Envoy

Only `VerdictAgainst` fails a test. All others mean that no verdict was
reached: the plugin reports them as ERROR, apart from failures, never as a pass.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import Failure


class IstioSidecarError(Exception):
    """Root of the tree; catching it catches everything this package raises on purpose.

    Attributes:
        failure: the message in its parts; as text the exception is that, laid out.
    """

    def __init__(self, failure: object = "", *more: object) -> None:
        """Take a message; of anything else its text, as other exceptions do."""
        text = ", ".join(map(str, (failure, *more)))
        self.failure = failure if isinstance(failure, Failure) else Failure(summary=text)
        super().__init__(str(self.failure))

    def __str__(self) -> str:
        return str(self.failure)


class ParseError(IstioSidecarError):
    """Text that cannot be read as a listing of iptables.

    Attributes:
        source: the file it came from, or what else names it; None when not known.
        line: 1-based number of the offending line, 0 when the text as a whole is meant.
        text: that line, cut to 200 characters; empty when the text is.
        reason: what is wrong, in one sentence.
        diagnosis: what usually causes it and what helps; empty when nothing is known.
        failure: the message in its parts, without place and line.
    """

    def __init__(
        self, failure: object = "", *, source: str | None = None, line: int = 0, text: str = ""
    ) -> None:
        super().__init__(failure)
        self.reason = self.failure.summary
        self.source = source
        self.line = line
        self.text = text[:200]

    def __str__(self) -> str:
        where = f"{self.source or '<text>'}:{self.line}" if self.line else self.source or "<text>"
        shown = [("text", repr(self.text))] if self.text else []
        placed = self.failure._replace(summary=f"{where}: {self.reason}", facts=(*shown, *self.failure.facts))
        return str(placed)

    @property
    def diagnosis(self) -> str:
        return "; ".join(filter(None, (self.failure.cause, self.failure.fix)))


class UsageProblem(IstioSidecarError):
    """An option, argument or file that cannot be meant; the message names the accepted values."""


class Undecided(IstioSidecarError):
    """The evidence allows no verdict; the message says what is missing."""


class EnvironmentProblem(IstioSidecarError):
    """What should be read could not be brought up, or could not be read."""


class VerdictAgainst(IstioSidecarError, AssertionError):
    """A verdict against the pod; the whole explanation is the message.

    Attributes:
        findings: the `Finding`s behind it, as the `check_*` twin returned them.
    """

    findings: tuple[object, ...] = ()


class BypassError(VerdictAgainst):
    """Traffic that should meet Envoy does not."""


class RedirectError(VerdictAgainst):
    """Traffic is redirected, or let by, other than it should be."""


class RuleSetMismatch(VerdictAgainst):
    """The rules are not what was expected."""


class ListenerMismatch(VerdictAgainst):
    """Envoy does not listen as the rules need it to."""


class NotIntercepted(VerdictAgainst):
    """A real request was answered without Envoy having seen it."""


# Tracebacks name them as users import them.
for _error in tuple(vars().values()):
    if isinstance(_error, type) and issubclass(_error, IstioSidecarError):
        _error.__module__ = "pytest_istio_sidecar"
