"""Replays decide as the test did, whatever read the rules, and a rule's place holds that rule.

Each run is of a pod with a fault, or of files. Every replay is run by a shell: the printed one where pytest
was run, the other where it lies. The cluster's programs and API server are doubles (fakes), which answer with
what a real pod answered (data/observed-*).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_kind_faults import Bench, bench

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.cli.command import Status
from pytest_istio_sidecar.netfilter.model import TABLES

__all__ = ["bench"]  # a fixture

DATA = Path(__file__).parents[2] / "data"
LAB = DATA / "lab-listing-1.8.3.txt"
LISTED_NAT = DATA / "observed-1.8.3" / "iptables-Lnvx.txt"
LEFT_OUT = "-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN"
CATCH_ALL = "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT"
DROPS = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[0:0] -A INPUT -p tcp -m tcp --dport 9090 -j DROP
COMMIT
"""
IPV6 = f"""*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
[0:0] -A PREROUTING -p tcp -j ISTIO_INBOUND
[0:0] {LEFT_OUT}
[0:0] {CATCH_ALL}
[0:0] -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
COMMIT
"""
POLICIES = {
    table: {chain: "DROP" if (table, chain) == ("filter", "INPUT") else "ACCEPT" for chain in TABLES[table]}
    for table in ("nat", "mangle", "raw", "filter")
}
LISTED = {
    table: "\n".join(
        f"Chain {chain} (policy {policy} 0 packets, 0 bytes)\n"
        "    pkts      bytes target     prot opt in     out     source               destination         \n"
        for chain, policy in policies.items()
    )
    for table, policies in POLICIES.items()
}
"""Tables without a rule, as `iptables -L -n -v -x` lists them; a policy of filter drops."""

ADDRESSES = {
    "lo": ["127.0.0.1/8"],
    "eth0": ["10.244.0.7/24", "fd00:10:244::7/64", "fe80::1/64"],
    "net1": ["10.99.0.3/16"],
}
LEFT_OUT_TEST = """
from pytest_istio_sidecar import *

def test_left_out(pod_rules, sidecar_pod):
    own = sidecar_pod.host.primary("eth0", 4)
    assert_redirected(pod_rules, inbound(8443, destination=own), to=15006, host=sidecar_pod.host)
"""
IPV6_TEST = """
from pytest_istio_sidecar import *

def test_every_port_of_ipv6(pod_rules, sidecar_pod):
    excluded = {15008, 22, 15090, 15021, 15020}
    assert_inbound_exclusions(pod_rules, excluded, host=sidecar_pod.host, family=6)
"""
TESTS = f"""{LEFT_OUT_TEST}{IPV6_TEST}
def test_every_port(pod_rules, sidecar_pod):
    assert_inbound_exclusions(pod_rules, {{22}}, host=sidecar_pod.host)

def test_every_bypass(pod_rules, sidecar_pod):
    assert_only_bypasses(pod_rules, ["inbound tcp 22"], host=sidecar_pod.host)

def test_a_packet_of_the_default_host(pod_rules, sidecar_pod):
    packet = outbound("198.51.100.7", 443, uid=1337, gid=0)
    assert_redirected(pod_rules, packet, to=15001, host=sidecar_pod.host)

def test_the_table_alone(iptables_nat, sidecar_pod):
    assert_redirect_target(iptables_nat, "ISTIO_REDIRECT", 15006, host=sidecar_pod.host)

def test_no_listener(pod_rules, sidecar_pod):
    assert_rules_reach_listeners(pod_rules, [], host=sidecar_pod.host)

def test_elsewhere(pod_rules, sidecar_pod, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_bypasses(pod_rules, outbound("198.51.100.7", 443), host=sidecar_pod.host)

def test_marked(pod_rules, sidecar_pod):
    assert_bypasses(pod_rules, outbound("198.51.100.7", 443, mark=7), host=sidecar_pod.host)
"""
REPLICA = """
from pytest_istio_sidecar import *

def test_a_replica(replica_rules, sidecar_pod):
    (other,) = replica_rules.values()
    own = sidecar_pod.host.primary("eth0", 4)
    assert_redirected(other, inbound(8443, destination=own), to=15006, host=sidecar_pod.host)
"""
DROPPED = """
from pytest_istio_sidecar import *

def test_dropped(pod_rules, sidecar_pod):
    own = sidecar_pod.host.primary("eth0", 4)
    assert_redirected(pod_rules, inbound(22, destination=own), to=15006, host=sidecar_pod.host)
"""
FILE_TESTS = """
from pytest_istio_sidecar import *

def test_left_out(pod_rules): assert_redirected(pod_rules, inbound(8443), to=15006)
"""


class Replays:
    """The verdicts of a run, by the names of their tests, each with its replays, run by a shell.

    Attributes:
        printed: the first replay line of each, "" where there is none.
        kept: what `replay.txt` says, where there is one.
    """

    def __init__(self, folder: Path, output: str) -> None:
        self.folder = folder
        self.output = output
        self.printed: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        assert (folder / "report.json").exists(), output
        for test in json.loads((folder / "report.json").read_text())["tests"]:
            assert test["outcome"] == "failed", output
            self._check(test["id"].rpartition("::test_")[2], test)

    def _check(self, name: str, test: dict[str, Any]) -> None:
        for problem in test["problems"]:
            self._check_place(problem["rule"])
        ways = [problem["way"] for problem in test["problems"]]
        self.printed[name] = ways[0]["replay"]
        assert (f"  replay   {ways[0]['replay']}\n" in self.output) is bool(ways[0]["replay"])
        for way in ways:
            if way["replay"]:
                self._same(f"{way['replay']} --json", self.folder, way)
        folder = self.folder / (test["evidence"] or "none")
        if (folder / "replay.txt").exists():
            self.kept[name] = (folder / "replay.txt").read_text()
            self._same(". ./replay.txt", folder, ways[0])

    def _same(self, command: str, folder: Path, way: dict[str, Any]) -> None:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == Status.HOLDS, f"{command}\n{done.stderr}"
        told = json.loads(done.stdout)
        assert (told["fate"], told["destination"]) == (way["fate"], way["destination"]), command

    def _check_place(self, rule: dict[str, str] | None) -> None:
        """In a text of iptables-save the line is the rule; `iptables -L` words it in its own way."""
        if rule is None or rule["location"].startswith("<"):
            return
        file, _, number = rule["location"].rpartition(":")
        line = (self.folder / file).read_text().splitlines()[int(number) - 1]
        shown = re.sub(r"^\[\d+:\d+\] ", "", line)
        assert shown == rule["text"] or shown.split()[0] == rule["text"].split()[-1], (rule, line)


# In a cluster


def answers(folder: Path, release: str) -> None:
    """What commands in a pod print, one port more left out than Istio's; each in a file of its words."""
    folder.mkdir()
    for program in ("iptables", "ip6tables"):
        for command in ("legacy-save", "nft-save"):
            words = f"{program}-{command}_-c"
            recorded = DATA / f"observed-{release}" / f"{words}.txt"
            if not recorded.exists():
                recorded = recorded.with_name(recorded.name.replace("_-c", "-c"))
            listing = re.sub(
                rf"^.*{CATCH_ALL}$", rf"[0:0] {LEFT_OUT}\n\g<0>", recorded.read_text(), flags=re.MULTILINE
            )
            (folder / words).write_text(listing)
    (folder / "iptables_-V").write_text("iptables v1.8.11 (legacy)\n")
    links = [{"ifname": "tunl0", "flags": ["NOARP"], "addr_info": []}]
    for name, addresses in ADDRESSES.items():
        held = [address.split("/") for address in addresses]
        told = [{"local": address, "prefixlen": int(length)} for address, length in held]
        links.append({"ifname": name, "flags": ["UP", "LOWER_UP"], "addr_info": told})
    (folder / "ip_-j_address").write_text(json.dumps(links))


def run_on(bench: Bench, *options: str, tests: str = TESTS) -> Replays:
    (bench.work / "test_one.py").write_text(tests)
    _, output = bench.run("--istio-report=report.json", *options)
    return Replays(bench.work, output)


def run_on_existing(bench: Bench, *options: str, tests: str = TESTS) -> Replays:
    (bench.home / "done-apply").touch()
    named = ("--istio-environment=existing", f"--istio-kubeconfig={bench.theirs}")
    return run_on(bench, *named, *options, tests=tests)


@pytest.mark.parametrize("run", [run_on, run_on_existing], ids=["kind", "existing"])
@pytest.mark.parametrize(
    ("reader", "uid", "shown"),
    [
        ("exec", 1337, "exec (sudo in istio-proxy)"),
        ("exec", 0, "exec (root in istio-proxy)"),
        ("node", 1337, "node (nsenter on one-control-plane)"),
        ("debug", 0, "debug (ephemeral container"),
    ],
    ids=["sudo", "root", "node", "debug"],
)
def test_with_every_reader_of_a_cluster_the_replays_decide_as_the_test_did(
    bench: Bench, run: Callable[..., Replays], reader: str, uid: int, shown: str
) -> None:
    answers(bench.home / "answers", "1.8.3")
    bench.api.uid = uid
    replays = run(bench, f"--istio-reader={reader}", tests=LEFT_OUT_TEST)
    assert shown in replays.output
    assert all(replays.printed.values())
    assert replays.printed.keys() == replays.kept.keys() == {"left_out"}


def test_every_kind_of_verdict_has_replays_that_decide_as_it_did(bench: Bench) -> None:
    answers(bench.home / "answers", "1.8.3")
    replays = run_on_existing(bench, "--istio-reader=exec")
    assert len(replays.printed) == TESTS.count("def test_")
    # Nothing was listed of IPv6, and no option describes a mark.
    without = {name for name, line in replays.printed.items() if not line}
    assert without == {"every_port_of_ipv6", "marked"}
    assert replays.printed.keys() - replays.kept.keys() == {"every_port_of_ipv6"}


def test_rules_of_both_back_ends_and_families_are_replayed(bench: Bench) -> None:
    folder = bench.home / "answers"
    answers(folder, "1.27.3")
    (folder / "iptables-legacy-save_-c").write_text(DROPS)
    (folder / "ip6tables-nft-save_-c").write_text(IPV6)
    options = ("--istio-reader=exec", "--istio-evidence=kept in here")
    replays = run_on_existing(bench, *options, tests=LEFT_OUT_TEST + IPV6_TEST)
    (run,) = (bench.work / "kept in here").iterdir()
    place = f"kept in here/{run.name}"
    assert shlex.split(replays.printed["left_out"])[2:4] == [
        f"legacy:{place}/iptables-legacy-save_c.txt",
        f"nft:{place}/iptables-nft-save_c.txt",
    ]
    assert shlex.split(replays.printed["every_port_of_ipv6"])[2] == f"ip6:{place}/ip6tables-nft-save_c.txt"
    assert replays.kept.keys() == replays.printed.keys()


def test_rules_of_another_replica_are_kept_and_replayed_too(bench: Bench) -> None:
    for folder in ("answers", "answers-2"):
        answers(bench.home / folder, "1.8.3")
    replays = run_on_existing(bench, "--istio-reader=exec", tests=REPLICA)
    assert "/default_httpbin-2/iptables-legacy-save_c.txt " in replays.printed["a_replica"]
    assert replays.kept.keys() == {"a_replica"}


def test_where_only_listings_answer_those_of_every_table_are_replayed(bench: Bench) -> None:
    folder = bench.home / "answers"
    answers(folder, "1.8.3")
    for path in folder.glob("*-save_-c"):
        path.unlink()
    for program in ("iptables", "ip6tables"):
        for table, listing in LISTED.items():
            (folder / f"{program}_-t_{table}_-L_-n_-v_-x").write_text(listing)
    (folder / "iptables_-t_nat_-L_-n_-v_-x").write_text(LISTED_NAT.read_text())
    replays = run_on_existing(bench, "--istio-reader=exec", tests=DROPPED)
    assert "it is dropped" in replays.output
    assert all(f"/iptables_t_{table}_L_n_v_x.txt " in replays.printed["dropped"] for table in LISTED)
    assert replays.kept.keys() == {"dropped"}


def test_workers_and_another_root_make_no_difference(bench: Bench) -> None:
    answers(bench.home / "answers", "1.8.3")
    replays = run_on_existing(bench, "-n2", "--istio-reader=exec", "--rootdir=..", tests=LEFT_OUT_TEST)
    assert all(replays.printed.values())
    assert replays.kept.keys() == {"left_out"}


# From files


def run_in(
    folder: Path, *options: str, tests: str = FILE_TESTS, redirections: str = "", text: str = ""
) -> Replays:
    """A run on files, by a shell."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_one.py").write_text(tests)
    words = ["-m", "pytest", "-p", "no:cacheprovider", "--istio-environment=file"]
    words += ["--istio-report=report.json", *options]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirections}', "bash", sys.executable, *words],
        cwd=folder,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return Replays(folder, done.stdout)


def saved() -> str:
    """Istio's rules in a file, and one port more left out."""
    text = render_save(expected_ruleset("1.8.3"))
    return text.replace(f"{CATCH_ALL}\n", f"{LEFT_OUT}\n{CATCH_ALL}\n")


@pytest.mark.parametrize(
    "name",
    ["pod.rules", "my pod's $HOME; rules.txt", "-x.rules", "./ip6:nft:pod.rules", "trace.txt", "replay.txt"],
)
def test_whatever_a_file_is_called_it_is_replayed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(saved())
    replays = run_in(tmp_path, f"--istio-table={name}", "--istio-evidence=kept")
    assert all(replays.printed.values())
    assert replays.kept.keys() == {"left_out"}


def test_without_evidence_the_users_own_file_is_replayed(tmp_path: Path) -> None:
    (tmp_path / "pod.rules").write_text(saved())
    replays = run_in(tmp_path, "--istio-table=pod.rules")
    assert replays.printed == {"left_out": "istio-sidecar trace pod.rules --inbound tcp/8443"}
    assert replays.kept == {}


def test_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for folder, listing in (("a", saved()), ("b", DROPS)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pod.rules").write_text(listing)
    tables = ("--istio-table=legacy:a/pod.rules", "--istio-table=nft:b/pod.rules")
    replays = run_in(tmp_path, *tables, "--istio-evidence=kept")
    assert replays.printed["left_out"].split()[2:4] == ["legacy:a/pod.rules", "nft:b/pod.rules"]
    assert replays.kept["left_out"].split()[2:4] == ["legacy:pod.rules", "nft:2-pod.rules"]


def test_listings_of_several_tables_are_replayed_together(tmp_path: Path) -> None:
    for table, listing in {**LISTED, "nat": LISTED_NAT.read_text()}.items():
        (tmp_path / table).write_text(listing)
    tables = [f"--istio-table={table}" for table in LISTED]
    replays = run_in(tmp_path, *tables, "--istio-evidence=kept", tests=DROPPED)
    assert replays.printed["dropped"].split()[2:6] == list(LISTED)
    assert replays.kept.keys() == {"dropped"}


@pytest.mark.parametrize(
    ("options", "redirections"),
    [(["-s", "--istio-table=-"], ""), ([], "--istio-table <(cat)")],
    ids=["standard input", "a pipe"],
)
def test_what_came_through_a_pipe_is_replayed_from_the_evidence(
    tmp_path: Path, options: list[str], redirections: str
) -> None:
    replays = run_in(tmp_path, *options, "--istio-evidence=kept", redirections=redirections, text=saved())
    assert all(replays.printed.values())
    assert replays.kept.keys() == {"left_out"}


def test_without_evidence_what_came_through_a_pipe_has_no_replay(tmp_path: Path) -> None:
    replays = run_in(tmp_path, "-s", "--istio-table=-", text=saved())
    assert "rule 6 of ISTIO_INBOUND (<standard input>:18) is not Istio 1.8.3's" in replays.output
    assert replays.printed == {"left_out": ""}


def test_what_a_listing_hides_is_completed_by_the_replay_with_the_options_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = "ISTIO_REDIRECT  all  --  anywhere             anywhere            \n"
    more = "RETURN     all  --  anywhere             10.96.0.0/12        \n"
    (tmp_path / "lab.txt").write_text(LAB.read_text().replace(last, more + last))
    option = "outbound_ip_ranges_exclude=10.96.0.0/12"
    replays = run_in(
        tmp_path,
        "--istio-table=lab.txt",
        f"--istio-option={option}",
        "--istio-evidence=kept",
        tests="""
from pytest_istio_sidecar import *

def test_range(pod_rules): assert_redirected(pod_rules, outbound("10.96.0.1", 443), to=15001)
""",
    )
    assert replays.kept.keys() == {"range"}
    line = shlex.split(replays.printed["range"])
    assert line[-4:] == ["--istio-version", "1.8.3", "--option", option]
    monkeypatch.chdir(tmp_path)
    assert main(line[1:-2]) == Status.UNDECIDED


def test_a_listing_without_any_rule_is_replayed(tmp_path: Path) -> None:
    for name in ("legacy", "nft"):
        (tmp_path / name).write_text("*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    tables = ("--istio-table=legacy:legacy", "--istio-table=nft:nft")
    replays = run_in(tmp_path, *tables, "--istio-evidence=kept")
    assert all(replays.printed.values())
    assert replays.kept.keys() == {"left_out"}


def test_a_listing_whose_policy_drops_takes_part_without_any_rule(tmp_path: Path) -> None:
    (tmp_path / "pod.rules").write_text(saved())
    (tmp_path / "drop.rules").write_text("*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    tables = ("--istio-table=legacy:pod.rules", "--istio-table=nft:drop.rules")
    replays = run_in(tmp_path, *tables, "--istio-evidence=kept")
    assert replays.printed["left_out"].split()[2:4] == ["legacy:pod.rules", "nft:drop.rules"]
    assert replays.kept.keys() == {"left_out"}
