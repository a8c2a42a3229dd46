"""What a message of iptables means, and what helps.

Knows the messages that iptables, ip6tables and their save and restore forms
print instead of, or beside, a listing. Does not know where the text came from.
Source of the messages: iptables 1.6.0 to 1.8.13, run against a kernel.
"""

from __future__ import annotations

import re

_KNOWN: tuple[tuple[str, str], ...] = (
    (
        r"no new privileges",
        "the container forbids privilege escalation, so sudo cannot become root; "
        "set allowPrivilegeEscalation and privileged, or read from the node",
    ),
    (
        r"can't open lock file .*Read-only file system",
        "the container's root is read-only, and listing takes a lock file; use iptables-save, which takes none",
    ),
    (
        r"can't open lock file .*Permission denied",
        "not root: the lock file of iptables cannot be written; run as root, or set XTABLES_LOCKFILE",
    ),
    (
        r"holding the xtables lock",
        "another iptables is at work; try again, or wait for it with -w",
    ),
    (
        r"Permission denied \(you must be root\)|Failed to list table names",
        "iptables ran without root or without CAP_NET_ADMIN and CAP_NET_RAW; use a privileged container, "
        "or read from the node",
    ),
    (
        r"is incompatible, use 'nft' tool",
        "the table holds rules that iptables did not write, or that a newer iptables wrote, "
        "or there is no such chain; look with nft list ruleset",
    ),
    (
        r"iptables-legacy tables present",
        "the other back end holds tables too; read it with iptables-legacy-save",
    ),
    (
        r"Table does not exist|table '[^']*' does not exist",
        "the kernel has no such table; its module may not be loaded (modprobe iptable_nat)",
    ),
    (r"No chain/target/match by that name", "there is no such chain: Istio's rules are not in this back end"),
    (r"Couldn't load (target|match)|Chain '[^']*' does not exist", "a rule names a chain or extension that is not there"),
    (r"Too many links|iptables-restore: line \d+ failed", "the kernel refused the rules; chains may jump in a circle"),
    (r"Invalid argument", "the kernel refused a rule: such a match or target is not allowed in that chain"),
    (r"not intended for filtering", "the nat table takes no DROP"),
    (r"COMMIT expected", "the text ends before its COMMIT"),
    (r"does a matching rule exist", "no such rule in that chain"),
    (r"unknown option|Can't use --?\S+ with|Need TCP, UDP|too many ports|invalid port", "a rule that iptables refuses"),
    (r"(command|executable file) not found|not found in \$PATH|No such file or directory", "the program is not there"),
    (r"Invalid chain name|chain name .* too long|goto '.*' is not a chain", "a chain name that iptables refuses"),
    (r"^(table (ip|ip6|inet) )", "this is a listing of nft; save it with iptables-save, or iptables-nft-save"),
    (r"^\s*[{\[]", "this is JSON, not a listing of iptables"),
    (r"^\s*<", "this is HTML or XML, not a listing of iptables"),
    (r"^(Error from server|error:|Unable to connect|Defaulted container)", "this is a message of kubectl"),
)
_PATTERNS = tuple((re.compile(pattern, re.MULTILINE), meaning) for pattern, meaning in _KNOWN)


def diagnose(text: str) -> str:
    """What usually causes a message, and what helps; "" for a message that is not known."""
    head = text[:4000]
    for pattern, meaning in _PATTERNS:
        if pattern.search(head):
            return meaning
    return ""
