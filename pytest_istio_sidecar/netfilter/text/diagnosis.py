"""What a message of iptables means, and what helps.

Knows the messages that iptables, ip6tables and their save and restore forms print instead of,
or beside, a listing, and how the output of other programs begins. Does not know where the text
came from. Source of the messages: iptables 1.6.0 to 1.8.13, both front ends, run against a kernel.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import Advice, advise

_ROOT = "run it as root in a privileged container, or read the pod's network namespace from its node"
_READ = 4000
"""Characters looked at, of either end: a message is short, and a text may be long."""
_OTHER = "give the output of iptables-save, or of iptables -t nat -S"
_NFT = "read it with parse_rules or parse_nftables, which take what nft prints"
_RULE = "correct the rule; nothing was loaded"

BROKEN_OFF = Advice(
    r"\Z",
    "the text breaks off in this line: the command was stopped, or its output not wholly stored",
    "save it again",
)
"""For the last line of a listing that goes on behind it."""

# The first that is found holds: what stops a command stands before what it only remarks.
KNOWN: tuple[Advice, ...] = (
    Advice(
        r"no new privileges",
        "the container forbids privilege escalation, so sudo cannot become root",
        "make the istio-proxy container privileged and wait until the old pod is gone, or read from the node",
    ),
    Advice(
        r"can't open lock file .*Read-only file system",
        "the container's root file system is read-only, and listing takes a lock file",
        "use iptables-save, which takes none, or point XTABLES_LOCKFILE to where it may be written",
    ),
    Advice(
        r"can't open lock file",
        "the lock file of iptables-legacy cannot be written: the user is not root",
        f"{_ROOT}; in a user namespace point XTABLES_LOCKFILE to where it may be written",
    ),
    Advice(
        r"Address family not supported by protocol",
        "the kernel has no IPv6, so no rules of ip6tables are loaded",
        "leave this listing out: there is nothing to read",
    ),
    Advice(
        r"can't initialize ip6tables table .*Table does not exist",
        "the kernel has no such table of IPv6: its module is not loaded, or IPv6 is switched off",
        "look at /proc/net/ip6_tables_names; on the node, modprobe ip6table_nat",
    ),
    Advice(
        r"Failed to initialize nft: Protocol not supported",
        "the kernel has no nf_tables, so no rules of this back end are loaded",
        "read the other back end: iptables-legacy-save",
    ),
    Advice(
        r"holding the xtables lock",
        "another iptables is at work and holds the lock",
        "try again, or wait for it with -w",
    ),
    Advice(
        r"Permission denied|Operation not permitted|must be root|Failed to list table names",
        "iptables ran without root, or without CAP_NET_ADMIN and CAP_NET_RAW",
        _ROOT,
    ),
    Advice(
        r"can't initialize iptables table .*Table does not exist|table '[^']*' does not exist",
        "the kernel has no such table: the name is wrong, or the table's module is not loaded",
        "look at /proc/net/ip_tables_names; on the node, modprobe iptable_nat",
    ),
    Advice(
        r"chain `[^']*' in table `[^']*' is incompatible",
        "there is no such chain in this back end, or nft itself wrote rules to that table",
        "read the other back end too (iptables-legacy-save), and look with nft list ruleset",
    ),
    Advice(
        r"incompatible\b.*use 'nft' tool",
        "the table holds chains or rules that iptables cannot show: nft wrote them, or a newer iptables",
        "give what nft list ruleset prints as well, or alone",
    ),
    Advice(
        r"No chain/target/match by that name",
        "there is no such chain: Istio's rules are not in this back end, this table or this pod",
        "read all tables of both back ends: iptables-legacy-save and iptables-nft-save",
    ),
    Advice(
        r"Couldn't load target|Chain '[^']*' does not exist|goto '[^']*' is not a chain",
        "a rule jumps to what is neither a chain of its table nor a target that is installed",
        "declare the chain before the rule",
    ),
    Advice(
        r"Couldn't load match",
        "a rule uses a match whose extension is not installed",
        "install it, or read with the iptables that wrote the rule",
    ),
    Advice(
        r"unknown option|Bad argument",
        "an option stands where no match of the rule takes it: --dport and the like need -p before them",
        _RULE,
    ),
    Advice(
        r"Can't use (-i|-o|--in-interface|--out-interface) with",
        "incoming packets have no outgoing interface yet, and locally made ones no incoming interface",
        _RULE,
    ),
    Advice(
        r"Need TCP, UDP, SCTP or DCCP",
        "a port without -p tcp, udp, sctp or dccp means nothing",
        _RULE,
    ),
    Advice(
        r"too many ports specified|invalid portrange|invalid port/service",
        "a port is none: above 65535, a range that ends before it begins, or more than 15 of them",
        _RULE,
    ),
    Advice(
        r"not intended for filtering",
        "the nat table takes no DROP on the command line, as it sees only first packets",
        "drop in the filter table",
    ),
    Advice(
        r"Too many links",
        "chains jump in a circle or more than 15 deep, or a chain that rules jump to was to be deleted",
        "break the circle; delete the jumps before the chain",
    ),
    Advice(
        r"Device or resource busy",
        "a chain that rules jump to was to be deleted",
        "delete the jumps first",
    ),
    Advice(
        r"Chain already exists",
        "a chain of that name is there already, perhaps from an earlier run",
        "flush it, or load with iptables-restore, which replaces the table",
    ),
    Advice(
        r"chain name .* too long|Invalid chain name",
        "a chain's name has at most 28 bytes and no blank",
        _RULE,
    ),
    Advice(
        r"Invalid argument|Operation not supported|(RULE|CHAIN)_\w+ failed",
        "the table or hook does not allow a rule's match or target, or the user namespace maps no such uid",
        "owner goes in OUTPUT and POSTROUTING, REDIRECT in PREROUTING and OUTPUT of nat; dmesg may say more",
    ),
    Advice(
        r"COMMIT expected",
        "the text for iptables-restore ends before its COMMIT",
        "give the whole text; nothing was loaded",
    ),
    Advice(
        r"restore: line \d+ failed",
        "the kernel refused the table: chains jump in a circle, or a match or target is not allowed there",
        "load it with iptables-nft-restore, which names the rule",
    ),
    Advice(
        r"does a matching rule exist",
        "no such rule is in that chain",
        "compare with iptables-save, which shows every rule as it is held",
    ),
    Advice(
        r"[Cc]ommand not found|: not found|executable file not found|No such file or directory",
        "the program is not in that container",
        "a distroless image has no iptables: read the pod's network namespace from its node",
    ),
    Advice(
        r"^\s*table (ip|ip6|inet|arp|bridge|netdev) \S+ \{",
        "this is what nft prints",
        _NFT,
    ),
    Advice(
        r"\A\s*add (table|chain|rule) ",
        "these are commands for nft",
        "give what nft list ruleset prints after them",
    ),
    Advice(
        r"\A\s*\S{0,60}[$#>%] (?!Generated|Completed|Warning|Table).*\b(ip6?tables|kubectl|nsenter)\b",
        "a line of the terminal, with the command, stands above the listing",
        "leave out what stands above its first line (Chain, -P, *nat or # Generated), as parse_rules does",
    ),
    Advice(
        r"^Chain \S.* \((policy |\d+ references)",
        "this is a listing of iptables -L, and it does not begin with its first chain",
        "leave out what stands above `Chain`, as parse_rules does",
    ),
    Advice(
        r"\A\s*(Error from server|error:|Unable to connect|Unable to use a TTY|error: unable to upgrade)",
        "this is a message of kubectl",
        "see what it says of the pod or the connection, and read again",
    ),
    Advice(
        r"\A\s*\{\s*\"nftables\"",
        "this is nft's JSON",
        _NFT,
    ),
    Advice(r"\A\s*(\{|\[[\s\"{\[\]]|\[\Z)", "this is JSON, not a listing of iptables", _OTHER),
    Advice(r"\A\s*<", "this is HTML or XML, not a listing of iptables", _OTHER),
    Advice(r"\A\s*(apiVersion|kind|---)\b", "this is YAML, not a listing of iptables", _OTHER),
    Advice(
        r"^\s*(Defaulted container|Defaulting container)",
        "kubectl's own remark stands in the text",
        "keep standard error apart from standard output, and name the container with -c",
    ),
    Advice(
        r"command terminated with exit code",
        "the command in the container failed",
        "read its standard error",
    ),
    Advice(
        r"is managed by iptables-nft",
        "nft lists a table that iptables-nft wrote",
        _NFT,
    ),
    Advice(
        r"tables-legacy tables present",
        "the other back end holds tables too, and this one shows nothing of them",
        "read it as well, with iptables-legacy-save",
    ),
)


def diagnose(text: str) -> Advice | None:
    """What usually causes a message and what helps; None for a message that is not known."""
    shown = text if len(text) <= 2 * _READ else f"{text[:_READ]}\n{text[-_READ:]}"
    return advise(shown, KNOWN)
