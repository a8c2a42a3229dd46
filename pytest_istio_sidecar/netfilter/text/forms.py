"""A text of any form that people have, to the rules of a pod.

Knows the order in which a text is cleaned, searched for listings and read, and which of several listings is
the state that holds. Does not know how a single form is read. Invariant: what is not whole is refused, never
taken for whole; what was taken off or left out is told in `PodRules.notes`; only `ParseError` is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.failure import Fact
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.model import Backend, Family, PodRules
from pytest_istio_sidecar.netfilter.text.blocks import Contents, Form, find_blocks
from pytest_istio_sidecar.netfilter.text.debris import without_colours, without_margins
from pytest_istio_sidecar.netfilter.text.diagnosis import diagnose
from pytest_istio_sidecar.netfilter.text.logs import unwrap
from pytest_istio_sidecar.netfilter.text.parse_save import LIMIT
from pytest_istio_sidecar.netfilter.text.state import State

_WIDE = 60
"""Letters of a line that a note shows."""
_SHOWN = 3
"""Lines that a note names; the rest are counted."""
_CNI = "cni"
"""How Istio's loggers name istio-cni, which logs of all pods of its node."""


def parse_rules(text: str, *, source: str | None = None) -> PodRules:
    """Read a text of any form that people have of a pod's rules.

    What iptables-save, `iptables -S` and `iptables -L` print, of any release and either family, also several
    in one text; what nft prints, as text and as JSON, with iptables-nft's listing of the same rules joined to
    it; the input of `iptables-restore --noflush`; commands of iptables, as a shell traces them;
    whole logs of istio-init and of other meshes' programs, also as JSON and with what a container runtime,
    kubectl, stern or journald puts in front; and what was copied from a terminal, a page or a mail.

    Args:
        text: the text, whole.
        source: names it in messages and in `Rule.location`.

    Returns:
        The rules, one ruleset for each family and back end. `notes` says what was taken off or left out, and
        of a log that its rules are those loaded at start.

    Raises:
        ParseError: no listing begins in it, or one is not whole; the empty text too. It says which listings
            were found, and at which lines.
    """
    return read_text(text, source=source)


def read_text(
    text: str, *, family: Family | None = None, backend: Backend | None = None, source: str | None = None
) -> PodRules:
    """Read a text as `parse_rules` does, of which something is known.

    Args:
        family: of listings that do not tell theirs.
        backend: the same.
    """
    contents = Contents()
    try:
        return _read(text, family, backend, source, contents)
    except ParseError as problem:
        facts = _readable(contents, problem.line)
        placed = ParseError(
            problem.failure.and_facts(facts), source=source, line=problem.line, text=problem.text
        )
        raise placed from None


def _read(
    text: str, family: Family | None, backend: Backend | None, source: str | None, contents: Contents
) -> PodRules:
    text = text.removeprefix("\ufeff")
    _refuse_what_is_no_text(text)
    text, taken = without_colours(text)
    bare = without_margins(list(enumerate(text.split("\n"), 1)))
    unwrapped = unwrap(bare.lines)
    again = without_margins(unwrapped.lines) if unwrapped.of else None
    lines = unwrapped.lines if again is None else again.lines
    names = {**bare.names, **(again.names if again else {})}
    try:
        find_blocks(lines, unwrapped.logged, contents)
    except ParseError:
        _refuse_several(names.values())
        raise
    if not contents.blocks:
        first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
        raise ParseError(messages.NOTHING_BEGINS().advised(diagnose(text)), line=first[0], text=first[1])
    numbers = (number for block in contents.blocks for number, _ in block.lines)
    _refuse_several(names[number] for number in numbers if number in names)
    state = State(family, source, log=contents.log, one_pod=_CNI not in unwrapped.scopes)
    state.beside_nft = any(block.form is Form.NATIVE and not block.of_part for block in contents.blocks)
    for block in contents.blocks:
        state.take(block)
    rulesets = state.rulesets(backend)
    off = [*taken, *bare.taken, *(again.taken if again else ()), *unwrapped.of]
    notes = [*state.notes, *_remarks(contents, off)]
    return PodRules(rulesets=rulesets, notes=tuple(notes), native_read=state.native_read)


def _refuse_what_is_no_text(text: str) -> None:
    if len(text) > LIMIT:
        raise ParseError(messages.TEXT_TOO_LONG(length=len(text), limit=LIMIT))
    if not text or text.isspace():
        raise ParseError(messages.TEXT_EMPTY())
    nul = text.find("\0")
    if nul >= 0:
        raise ParseError(messages.BINARY(), line=text.count("\n", 0, nul) + 1)


def _refuse_several(names: Iterable[str]) -> None:
    """Refuse rules of several pods, as the names in front of their lines tell."""
    several = sorted(set(names))
    if len(several) > 1:
        shown = ", ".join(several[:_SHOWN]) + (", ..." if len(several) > _SHOWN else "")
        raise ParseError(messages.SEVERAL_PODS(names=shown))


def _remarks(contents: Contents, off: Sequence[str]) -> Iterator[str]:
    """Notes on what was taken off and left out."""
    if off:
        yield f"taken off: {', '.join(off)}"
    left = [(number, line.strip()) for number, line in contents.left_out]
    if left:
        shown = [
            f"line {number} (`{line if len(line) <= _WIDE else line[:_WIDE] + '...'}`)"
            for number, line in left
        ]
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        yield f"left out, as no part of a listing: {', '.join(shown[:_SHOWN])}{more}"


def _readable(contents: Contents, line: int) -> Iterator[Fact]:
    """Where in the text listings begin, and of which kind."""
    begins = [f"line {block.begin}: {block.form}" for block in contents.blocks]
    if len(begins) > 1 or (begins and contents.blocks[0].begin not in (1, line)):
        more = [f"and {len(begins) - _SHOWN} more"] if len(begins) > _SHOWN else []
        yield "begins", "\n".join((*begins[:_SHOWN], *more))
