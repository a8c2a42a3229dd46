"""What people posted, and the right answer to it: two packets of each text, and what gets by it."""

from __future__ import annotations

import json

import pytest
from netfilter_data import DATA

from pytest_istio_sidecar.cli import main

REPORTS = DATA / "reports"
IN = ("--inbound", "tcp/80")
OUT = ("--outbound", "10.1.2.3:443")
STATUS = {"unknown": 3, "refused": 2}
AT_ENVOY = ("redirected to 192.0.2.10:15006", "redirected to 127.0.0.1:15001")
UNTOLD = ("unknown", "unknown")
REFUSED = ("refused", "refused")
PAST_ENVOY = ("unchanged", "unchanged")
"""Answers for the first packet of a neighbour to port 80, and of the application to somebody."""

PACKETS = {
    "01-istio-init-log-1.5-swallowed-x.txt": ("unchanged", AT_ENVOY[1]),
    "01b-restore-input.txt": ("unchanged", AT_ENVOY[1]),
    "01c-save.txt": ("unchanged", AT_ENVOY[1]),
    "02-grep-istio-nft-thrice.txt": REFUSED,
    "02b-nft-save-thrice.txt": ("unknown", AT_ENVOY[1]),
    "02c-grep-istio-of-save.txt": REFUSED,
    "02d-grep-A-of-save.txt": REFUSED,
    "03-stern-prefix.txt": AT_ENVOY,
    "04-shell-trace-1.1.txt": ("redirected to 192.0.2.10:15001", "unchanged"),
    "06-log-1.4-rerun.txt": AT_ENVOY,
    "06b-save.txt": AT_ENVOY,
    "07-vm-docker-L-v.txt": ("unknown", "unchanged"),
    "07n-vm-docker-L-n-v.txt": ("unknown", "unchanged"),
    "08-vm-docker-truncated.txt": REFUSED,
    "08b-vm-docker-whole.txt": ("translated to 172.17.0.2:8080", AT_ENVOY[1]),
    "09-telepresence-uid0.txt": AT_ENVOY,
    "10-telepresence-2.6.txt": ("redirected to 192.0.2.10:9900", AT_ENVOY[1]),
    "11-bpf-object-pinned.txt": UNTOLD,
    "11b-bpf-bytecode.txt": UNTOLD,
    "13-oke-init-log-dns.txt": AT_ENVOY,
    "13b-restore-only.txt": AT_ENVOY,
    "13c-save.txt": AT_ENVOY,
    "16-ip6-filter-reject.txt": ("dropped", "refused"),
    "16b-ip6-L.txt": ("unknown", "refused"),
    "19-kubevirt-L-n-v.txt": ("redirected to 192.0.2.10:15001", AT_ENVOY[1]),
    "20-squeezed-blanks-L-n.txt": UNTOLD,
    "20b-S-without-P.txt": REFUSED,
    "20c-trimmed-L-n-v.txt": AT_ENVOY,
    "21-crlf.txt": AT_ENVOY,
    "21b-defaulted.txt": AT_ENVOY,
    "21c-prompt-L.txt": UNTOLD,
    "21d-prompt-save.txt": AT_ENVOY,
    "21e-ansi.txt": AT_ENVOY,
    "21f-quoted-mail.txt": AT_ENVOY,
    "21g-fence.txt": AT_ENVOY,
    "21h-indented.txt": AT_ENVOY,
    "21i-cat-n.txt": AT_ENVOY,
    "21j-prompt-S.txt": AT_ENVOY,
    "24-iptables-L-without-t-nat.txt": UNTOLD,
    "24b-iptables-S-without-t-nat.txt": UNTOLD,
    "26-kubectl-debug.txt": AT_ENVOY,
    "27-no-ipv6-1.4.21.txt": REFUSED,
    "27b-notroot.txt": REFUSED,
    "28-cut-mid-line.txt": REFUSED,
    "31-both-families.txt": (AT_ENVOY[0], "unchanged"),
    "32-both-backends.txt": AT_ENVOY,
    "33-kubectl-error.txt": REFUSED,
    "33b-oci.txt": REFUSED,
    "35-include-outbound-ports-8443.txt": AT_ENVOY,
    "36-jc550-x.txt": UNTOLD,
    "37-jc675-no-target.txt": UNTOLD,
    "38-linkerd-L-line-numbers.txt": ("unknown", "unchanged"),
    "38b-linkerd-log.txt": UNTOLD,  # one back end, empty: the other was not read
    "40-nft-with-legacy-warning.txt": AT_ENVOY,
    "F1-dnat-anywhere.txt": (AT_ENVOY[0], "unchanged"),
    "F1b-istio-1.8.3-and-a-udp-dnat.txt": AT_ENVOY,
}


@pytest.mark.parametrize(
    ("name", "packet", "answer"),
    [
        (name, packet, answer)
        for name, answers in PACKETS.items()
        for packet, answer in zip((IN, OUT), answers, strict=True)
    ],
)
def test_the_first_packets_of_a_posted_text_have_their_right_answer(
    name: str, packet: tuple[str, str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", str(REPORTS / name), *packet]) == STATUS.get(answer, 0)
    if answer != "refused":
        assert f": {answer}" in capsys.readouterr().out.splitlines()[0]


REST = "inbound tcp not 22,15020,15090"
DNS = ("redirect_dns=true", "dns_servers_v4=10.96.5.5")


@pytest.mark.parametrize(
    ("name", "version", "options", "status", "told"),
    [
        ("01c-save.txt", "1.5.10", (), 1, f"{REST} reaches the application without Envoy"),
        ("01c-save.txt", "1.5.10", ("inbound_ports_include=",), 1, 'without Envoy (includeInboundPorts: "")'),
        ("02b-nft-save-thrice.txt", "1.20.8", (), 1, "inbound tcp 9080 is sent to 192.0.2.10:15001"),
        ("03-stern-prefix.txt", "1.20.8", (), 0, ""),
        ("06b-save.txt", "1.5.10", (), 0, ""),
        ("08b-vm-docker-whole.txt", "1.8.3", (), 1, "inbound tcp 80 is sent to 172.17.0.2:8080, which"),
        (
            "09-telepresence-uid0.txt",
            "1.25.4",
            (),
            1,
            "outbound tcp from uid 0 gid not 1337 by eth0",
        ),
        (
            "10-telepresence-2.6.txt",
            "1.13.0",
            (),
            1,
            "inbound tcp 80 is sent to 192.0.2.10:9900, which is not",
        ),
        ("11-bpf-object-pinned.txt", "1.8.3", (), 1, "outbound tcp 15008 to not 127.0.0.1"),
        ("13c-save.txt", "1.13.0", DNS, 0, ""),
        ("16-ip6-filter-reject.txt", "1.8.3", (), 3, "whether IPv6 is to go through Envoy cannot be told"),
        ("16-ip6-filter-reject.txt", "1.8.3", ("enable_ipv6=false",), 0, ""),
        ("16-ip6-filter-reject.txt", "1.8.3", ("enable_ipv6=true",), 1, "outbound IPv6 tcp"),
        (
            "19-kubevirt-L-n-v.txt",
            "1.5.10",
            (),
            1,
            "inbound tcp not 22 is sent to 192.0.2.10:15001, which is not",
        ),
        ("20-squeezed-blanks-L-n.txt", "1.13.0", (), 0, ""),
        ("20c-trimmed-L-n-v.txt", "1.13.0", (), 0, ""),
        ("21-crlf.txt", "1.8.3", (), 0, ""),
        ("24-iptables-L-without-t-nat.txt", "1.20.8", (), 3, "nat was not read"),
        ("31-both-families.txt", "1.8.3", (), 1, "outbound IPv6 tcp from uid not 1337 gid not 1337 by eth0"),
        ("32-both-backends.txt", "1.8.3", (), 0, ""),
        ("35-include-outbound-ports-8443.txt", "1.8.3", ("outbound_ports_include=8443",), 0, ""),
        ("40-nft-with-legacy-warning.txt", "1.20.8", (), 3, "iptables-legacy"),
        (
            "F1b-istio-1.8.3-and-a-udp-dnat.txt",
            "1.8.3",
            (),
            1,
            "inbound udp 9 is sent to 192.0.2.10:9, which",
        ),
    ],
)
def test_what_gets_by_in_a_posted_text_beside_a_release_has_its_right_answer(
    name: str,
    version: str,
    options: tuple[str, ...],
    status: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [word for option in options for word in ("--option", option)]
    assert main(["bypasses", str(REPORTS / name), "--istio-version", version, *asked]) == status
    assert told in " ".join(capsys.readouterr().err.split())


def test_packets_of_a_thread_are_untold_from_a_listing_of_nat_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listing, packets = REPORTS / "07n-vm-docker-L-n-v.txt", REPORTS / "07-packets.jsonl"
    assert main(["trace", str(listing), "--packets", str(packets)]) == 3
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["fate"] for each in told] == ["unknown", "unknown"]
    assert all("mangle was not read" in each["reasons"][0] for each in told)
