"""What `render_save` writes, a kernel takes, and its iptables-save text parses to what was meant.

Each text is loaded into a network namespace of its own, which is gone when the command that made it is.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from kernel_testbed import why_impossible

from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.netfilter.matches import Extension, Option
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Chain, Ruleset
from pytest_istio_sidecar.netfilter.targets import Jump
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save
from pytest_istio_sidecar.netfilter.text.render import render_save

DATA = Path(__file__).parents[1] / "data"
BACKENDS = pytest.mark.parametrize("backend", ["legacy", "nft"])

pytestmark = pytest.mark.skipif(bool(why_impossible()), reason=why_impossible() or "possible")


@cache
def grammar() -> list[dict[str, Any]]:
    with gzip.open(DATA / "netfilter-vectors.json.gz", "rt") as file:
        entries: list[dict[str, Any]] = json.load(file)["grammar"]
    return entries


def through_the_kernel(ruleset: Ruleset, backend: str, scratch: Path) -> Ruleset | str:
    """What the kernel holds after the ruleset was loaded, or why it was not taken."""
    tool = f"{'iptables' if ruleset.family == 4 else 'ip6tables'}-{backend}"
    answer = subprocess.run(
        ["unshare", "--net", "sh", "-ec", f"{tool}-restore; {tool}-save"],
        input=render_save(ruleset),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LC_ALL": "C", "XTABLES_LOCKFILE": str(scratch / "lock")},
    )
    if answer.returncode != 0:
        return answer.stderr
    if not answer.stdout:
        return Ruleset(family=ruleset.family)
    return parse_iptables_save(answer.stdout, family=ruleset.family)


def chains(ruleset: Ruleset) -> dict[str, dict[str, Chain]]:
    """By name: each version and back end writes tables and chains in an order of its own."""
    return {table.name: {chain.name: chain for chain in table.chains} for table in ruleset.tables}


def alone(rule: str, table: str) -> Ruleset:
    words = rule.split()
    users = {words[1], *(words[i + 1] for i, word in enumerate(words) if word in ("-j", "-g"))}
    users = {name for name in users if name in USERS}
    declared = [f":{name} ACCEPT [0:0]" for name in TABLES[table]] + [f":{name} - [0:0]" for name in users]
    return parse_iptables_save("\n".join((f"*{table}", *declared, rule, "COMMIT", "")))


USERS = frozenset((
    *("S", "ONE", "EMPTY", "A_CHAIN_NAME_LONGER_28CHARS"),
    *("ISTIO_INBOUND", "ISTIO_DIVERT", "ISTIO_TPROXY"),
))  # fmt: skip


@BACKENDS
@pytest.mark.parametrize("family", [4, 6])
def test_istios_table_comes_back_from_the_kernel(backend: str, family: Literal[4, 6], tmp_path: Path) -> None:
    meant = expected_ruleset("1.8.3", family=family)
    held = through_the_kernel(meant, backend, tmp_path)
    assert isinstance(held, Ruleset), held
    assert chains(held)["nat"] == chains(meant)["nat"]
    assert held.backend is (Backend.LEGACY if backend == "legacy" else Backend.NF_TABLES)
    assert held.family == family


@BACKENDS
@pytest.mark.parametrize("spelling", ["typed", "saved"])
def test_every_rule_that_this_kernel_takes_comes_back_as_it_was_meant(
    backend: str, spelling: str, tmp_path: Path
) -> None:
    refused = {}
    wrong = {}
    for entry in grammar():
        saved = next(
            save["text"]
            for save in entry["forms"]["save"]
            if save["versions"] == "all" or {"1.8.9L", "1.8.9N"} & set(save["versions"])
        )
        meant = alone(saved, entry["table"])
        given = alone(entry["rule"], entry["table"]) if spelling == "typed" else meant
        held = through_the_kernel(given, backend, tmp_path)
        if isinstance(held, str):
            refused[entry["rule"]] = held
        elif chains(held) != chains(meant):
            wrong[entry["rule"]] = [rule.text for rule in held.rules()]
    assert wrong == {}
    # The rest needs a module, an ipset or a user that this machine may not have.
    assert len(refused) < 20, refused


@BACKENDS
def test_an_empty_ruleset_is_taken(backend: str, tmp_path: Path) -> None:
    assert through_the_kernel(Ruleset(), backend, tmp_path) == Ruleset()


STRANGE = (
    ("plain", "plain"),
    ("a:b", "--dport"),
    (":x", "-j"),
    ("#x", "two words"),
    ('q"r', 'a "quoted" word'),
    ('"q', "it's"),
    ("it's", 'back\\slash \\" and \\n'),
    ("ä", "x */ tcp dpt:22 /* y"),
    ("[1:2]", "\x1b[31mred\t"),
    ("*nat", "first\n-A OUTPUT -j ACCEPT\nCOMMIT\n*filter"),
    ("COMMIT", '"\n"'),
    ("last", ""),
)


@BACKENDS
def test_strange_names_and_comments_read_as_what_was_given_to_iptables(backend: str, tmp_path: Path) -> None:
    tool = f"iptables-{backend}"
    commands = (
        f'{tool} -t nat -N "$1"; {tool} -t nat -A OUTPUT -m comment --comment "$2" -j "$1"; {tool}-save'
    )
    for name, comment in STRANGE:
        saved = subprocess.run(
            ["unshare", "--net", "sh", "-ec", commands, "sh", name, comment],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "XTABLES_LOCKFILE": str(tmp_path / "lock")},
        ).stdout
        (rule,) = parse_iptables_save(saved).rules()
        assert rule.target == Jump(name)
        assert rule.matches == (
            Extension(module="comment", options=(Option(name="--comment", values=(comment,)),)),
        )
        assert rule.text in saved


EXTENSIONS = (
    "-m string --string abc --algo bm -j RETURN",
    '-m string --string "a b" --algo kmp --from 1 --to 5 -j RETURN',
    '-m string --hex-string "|0a|GET" --algo bm -j RETURN',
    "-j LOG --log-prefix a:b",
    '-m recent --name "x y" --set -j RETURN',
    "-m hashlimit --hashlimit-name foo --hashlimit-above 5/sec --hashlimit-mode srcip -j RETURN",
    "-m time --timestart 10:00 --timestop 12:00 --weekdays Mon,Tue -j RETURN",
    '-m u32 --u32 "6&0xFF=1" -j RETURN',
    '-m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0" -j RETURN',
    "-p tcp -m tcp --tcp-flags ALL NONE -j RETURN",
    "-p tcp -m tcp ! --tcp-option 8 -j RETURN",
    "-p sctp -m sctp ! --dport 80 --chunk-types all DATA,INIT -j RETURN",
    "-p esp -m esp --espspi 1:5 -j RETURN",
    "-m connbytes --connbytes 1:100 --connbytes-dir both --connbytes-mode bytes -j RETURN",
    "-m comment --comment a -m comment --comment b -j RETURN",
    "-j CONNMARK --restore-mark --nfmask 0xf --ctmask 0xf0",
    "-j NFQUEUE --queue-balance 0:3 --queue-bypass",
    "! -f -j RETURN",
)


@BACKENDS
@pytest.mark.parametrize("rule", EXTENSIONS)
def test_an_extension_reads_as_iptables_save_writes_it(backend: str, rule: str, tmp_path: Path) -> None:
    tool = f"iptables-{backend}"
    answer = subprocess.run(
        ["unshare", "--net", "sh", "-ec", f"{tool}-restore; {tool}-save"],
        input=f"*mangle\n-A OUTPUT {rule}\nCOMMIT\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LC_ALL": "C", "XTABLES_LOCKFILE": str(tmp_path / "lock")},
    )
    if answer.returncode != 0:
        pytest.skip(f"this kernel does not take it: {answer.stderr.strip()}")
    (read,) = parse_iptables_save(answer.stdout).rules()
    assert f"{read.text}\n" in answer.stdout
    again = parse_iptables_save(render_save(parse_iptables_save(answer.stdout)))
    assert list(again.rules()) == [read]
