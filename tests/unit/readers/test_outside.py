"""Programs outside netfilter, on what the commands print that show them; and what a pod cannot show."""

from pathlib import Path

import pytest

from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.readers.outside import look_outside

DATA = Path(__file__).parents[2] / "data" / "outside"
FILES = {"tc": "tc_qdisc.txt", "ip": "ip_d_link.txt", "bpftool": "bpftool_net.txt", "cat": "ip_vs.txt"}


class Pod:
    """Prints recorded answers; what is not among them is not in the pod."""

    def __init__(self, **texts):
        self.texts = texts

    def run(self, argv, *, timeout):
        text = self.texts.get(argv[0])
        missing = "cat: /proc/net/ip_vs: No such file or directory" if argv[0] == "cat" else "not found"
        return CommandResult(
            argv=tuple(argv),
            exit_status=0 if text is not None else 1 if argv[0] == "cat" else 127,
            stdout=text or "",
            stderr="" if text is not None else missing,
            seconds=0.1,
        )


@pytest.mark.parametrize(
    ("program", "named"),
    [
        ("tc", "clsact on eth0"),
        ("ip", "XDP on eth0, VRF on blue"),
        ("bpftool", "eth0 generic id 41, eth0 tcx/ingress cil_from_netdev prog_id 1503 link_id 14"),
        ("bpftool", "ip local_in prio 0 prog_id 99"),
        ("cat", "TCP services"),
    ],
)
def test_each_is_named_where_it_is_found(program, named):
    notes, _ = look_outside(Pod(**{program: (DATA / FILES[program]).read_text()}), timeout=5)
    assert named in notes[0]
    assert "unseen here" in notes[0]


def test_what_the_pod_cannot_show_is_said_once():
    plain = "qdisc noqueue 0: dev eth0 root refcnt 2 \n"
    assert look_outside(Pod(tc=plain, ip="1: lo: <LOOPBACK,UP> mtu 65536\n"), timeout=5)[0] == (
        "not looked for, as nothing in the pod shows it: eBPF (no bpftool)",
    )
