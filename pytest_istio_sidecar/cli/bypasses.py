"""`istio-sidecar bypasses`: every packet that gets by without Envoy, of all that the pod can see.

Knows how an expectation and what is allowed are written on the command line. Does not know how
classes are found. Invariant: exit status 0 only when all that gets by is by design or allowed; what an option
opens is not by design.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_istio_sidecar.cli.command import (
    Commands,
    Status,
    add_command,
    add_interface_argument,
    add_option_argument,
    add_rules_argument,
    given,
    host_of,
    print_assumptions,
    print_notes,
    refuse_unseen,
    release_of,
    say,
)

if TYPE_CHECKING:
    from pytest_istio_sidecar.checks.bypass.bypasses import BypassReport
    from pytest_istio_sidecar.checks.bypass.reviewed import ReviewedBypass
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.netfilter.model import Rules


def add(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(
        commands,
        "bypasses",
        run,
        help="list all that gets by without Envoy",
        description="List every class of packets that reach or leave the application without Envoy. Exit "
        "status: 1 where something gets by that may not, whatever else cannot be told; 3 where nothing is "
        "known to, and of some packets it cannot be told.",
    )
    add_rules_argument(parser)
    parser.add_argument(
        "--istio-version",
        metavar="VERSION",
        help="release whose own bypasses are by design (default: the pod's where a folder tells it, "
        "else none, so that nothing is by design)",
    )
    add_option_argument(parser)
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="TEXT",
        help='what else may get by (repeat): "inbound tcp 9000-9010", "outbound from gid 0"',
    )
    parser.add_argument(
        "--reviewed",
        "--istio-reviewed-bypasses",
        type=Path,
        metavar="FILE",
        help="the project's list of reviewed bypasses, as the suite takes it: what is on it, and in date, "
        "may get by; to an entry that is for some pods, RULES are the name of this one",
    )
    parser.add_argument(
        "--accept-options",
        "--istio-accept-options",
        action="append",
        default=[],
        metavar="NAME",
        help="an option of Istio's whose openings may get by (repeat), as the suite takes it: "
        "inbound_ports_exclude, excludeInboundPorts",
    )
    add_interface_argument(parser)


def run(options: argparse.Namespace) -> Status:
    """Print them."""
    from pytest_istio_sidecar.checks.bypass.bypass import Bypass
    from pytest_istio_sidecar.checks.bypass.bypasses import check_only_bypasses, not_allowed
    from pytest_istio_sidecar.checks.bypass.found_bypass import Standing
    from pytest_istio_sidecar.checks.bypass.reviewed import (
        ReviewedBypass,
        check_reviewed_bypasses,
        judged_bypasses,
        parse_reviewed_bypasses,
        reviewed_beside,
    )
    from pytest_istio_sidecar.checks.comparison.expectation import completed, expected_of
    from pytest_istio_sidecar.errors import Undecided
    from pytest_istio_sidecar.istio.option_names import options_named
    from pytest_istio_sidecar.machine.given_file import text_of
    from pytest_istio_sidecar.netfilter.kernel.unread import left_aside
    from pytest_istio_sidecar.reports.bypasses import render_bypasses, titles_of
    from pytest_istio_sidecar.reports.colour import painter

    read = given(options)
    rules: Rules = read.rules
    host = host_of(options.interface)
    path = options.reviewed
    listed = () if path is None else parse_reviewed_bypasses(text_of(path), source=str(path))
    allowed = [
        ReviewedBypass(what=Bypass.parse(text), why="--allow", until=date.max) for text in options.allow
    ]
    reviewed = [*listed, *allowed]
    accepted = [name for names in options.accept_options for name in options_named(names)]
    pod, today = ", ".join(options.rules), datetime.now(tz=UTC).date()
    of_pod: dict[str, Any] = {
        "accepted": accepted,
        "pod": pod,
        "users": read.users,
        "host": host,
        "today": today,
    }
    version, asked = release_of(options, read)
    expected = None
    if version is None:
        report = reviewed_beside(rules, None, reviewed, pod=pod, today=today, host=host)
    else:
        refuse_unseen(read.rules, version, asked, host)
        expected = expected_of(rules, version, asked)
        rules = completed(rules, expected)
        report = judged_bypasses(rules, version, asked, reviewed=reviewed, **of_pod)
    against = [each for each in report.unexpected if each.standing is Standing.OPEN]
    may = [entry.packets for entry in reviewed if entry.holds(pod=pod, today=today)]
    something_said = bool(version or options.allow or options.reviewed)
    undecided = ""
    if something_said or not against:
        try:
            if version is not None:
                check_reviewed_bypasses(version, asked, reviewed, rules=rules, **of_pod)
            check_only_bypasses(rules, [*may, *against], expected=expected, host=host)
        except Undecided as problem:
            undecided = str(problem)
    if options.json:
        print(json.dumps(report.to_dict()))
        print_notes(read.rules.notes)
    else:
        width = shutil.get_terminal_size().columns
        paint = painter(sys.stdout)
        unread = left_aside(read.rules)
        holding = [n for each in report.unexpected if each.standing == "reviewed" for n in each.reviews]
        by = sorted({"reviewed" if number < len(listed) else "allowed" for number in holding})
        titles = titles_of(
            expected=expected is not None, allowed=bool(allowed), listed=path is not None, by=by
        )
        text = render_bypasses(report, titles=titles, unread=unread, width=width, paint=paint)
        print(*read.rules.notes, text, sep="\n")
    print_assumptions(rules)
    _print_what_is_idle(accepted, version, asked)
    if undecided and not against:
        say(undecided)
        return Status.UNDECIDED
    if against and something_said:
        neither = _neither(version, options)
        for each in against:
            asked_for = f" ({', '.join(each.asked)})" if each.asked else ""
            say(f"{neither}: {not_allowed(each, rules).summary}{asked_for}")
        for why in _why_not(report, listed, pod=pod, today=today):
            say(why)
    elif against:
        say("nothing was said of what may get by; --istio-version, --allow and --reviewed do")
    if against and report.conditional:
        say("of the packets under CANNOT BE TOLD it is not known whether they get by, too")
    elif against and undecided:
        say(f"and not decided, whatever becomes of that: {undecided}")
    return Status.AGAINST if against else Status.HOLDS


def _print_what_is_idle(accepted: Sequence[str], version: str | None, asked: IstioOptions) -> None:
    """Say which options are accepted and open nothing."""
    from pytest_istio_sidecar.checks.bypass.openings import Pod

    if version is None:
        idle = dict.fromkeys(accepted, "takes effect with --istio-version")
    else:
        own = {option.name for option in Pod(version, asked).own}
        idle = {name: "is as the release's template has it" for name in accepted if name not in own}
    print_notes(f"--accept-options: {name} {why}" for name, why in idle.items())


def _neither(version: str | None, options: argparse.Namespace) -> str:
    """What a class is not that may not get by, of what could let it."""
    may = ["by design"] * bool(version)
    may += ["allowed"] * (bool(options.allow) or not options.reviewed) + ["reviewed"] * bool(options.reviewed)
    if len(may) == 2:
        return f"neither {may[0]} nor {may[1]}"
    return f"not {', '.join(may[:-1])}{' or ' if may[1:] else ''}{may[-1]}"


def _why_not(
    report: BypassReport, listed: Sequence[ReviewedBypass], *, pod: str, today: date
) -> Iterator[str]:
    """Why reviews of what is open do not hold, each said once."""
    sentences = (
        listed[number].why_not(each.family, pod=pod, today=today)
        for each in (*report.inbound, *report.outbound)
        if each.standing == "open"
        for number in each.reviews
        if number < len(listed)
    )
    yield from dict.fromkeys(sentences)
