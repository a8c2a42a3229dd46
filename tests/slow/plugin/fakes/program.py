"""A fake of kind, kubectl, istioctl and docker, one file under four names: a double, for faults in seconds.

What it is asked goes to calls.log; the clusters it has "made" are files. FAKE_FAULTS names what
shall go wrong, `COMMAND:FAULT` with a comma between: `create:hang`, `load:fail`, `install:fail`.
`create:slow` says what kind says, and takes its time. `begun` files say that a command has begun, so that
a test can strike in the middle of it. `answers` has what commands in the pod print, each in a file of its
words.
"""

import json
import os
import sys
import time
from pathlib import Path

HOME = Path(os.environ["FAKE_HOME"])
PROGRAM, WORDS = Path(sys.argv[0]).name, sys.argv[1:]
FAULTS = dict(fault.split(":") for fault in os.environ.get("FAKE_FAULTS", "").split(",") if fault)
KIND_SAYS = (
    'Creating cluster "one" ...',
    " • Ensuring node image (kindest/node:v1.19.16) 🖼  ...",
    " ✓ Ensuring node image (kindest/node:v1.19.16) 🖼",
    " • Preparing nodes 📦  ...",
)
"""pkg/cluster/internal/create/create.go and actions, on a pipe."""


def option(name):
    return next((word.partition("=")[2] for word in WORDS if word.startswith(f"--{name}=")), "")


def begin(command):
    (HOME / f"begun-{command}").touch()
    fault = FAULTS.get(command)
    if fault == "hang":
        print(f"{command}: the last words", file=sys.stderr, flush=True)
        time.sleep(120)
    if fault == "slow":
        for said in KIND_SAYS:
            print(said, file=sys.stderr, flush=True)
            time.sleep(0.25)
    if fault == "exist":
        print('ERROR: node(s) already exist for a cluster with the name "one"', file=sys.stderr)
        sys.exit(1)
    if fault == "port-taken" or (fault == "port-taken-once" and not (HOME / "port-taken").exists()):
        (HOME / "port-taken").touch()
        print(
            "docker: Error response from daemon: driver failed programming external connectivity on endpoint "
            "one-control-plane (f52bfd07): Error starting userland proxy: listen tcp4 127.0.0.1:38669: bind: "
            "address already in use",
            file=sys.stderr,
        )
        sys.exit(1)
    if fault == "no-engine":
        print("ERROR: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", file=sys.stderr)
        sys.exit(1)
    if fault == "fail":
        print(f"{command}: it cannot be done", file=sys.stderr, flush=True)
        sys.exit(1)


def kind():
    clusters = HOME / "clusters"
    cluster = clusters / option("name")
    match WORDS[:2]:
        case ["get", "clusters"]:
            print("\n".join(path.name for path in sorted(clusters.iterdir())))
        case ["create", "cluster"]:
            cluster.touch()
            begin("create")
            Path(option("kubeconfig")).write_text((HOME / "kubeconfig").read_text())
        case ["export", "kubeconfig"]:
            Path(option("kubeconfig")).write_text((HOME / "kubeconfig").read_text())
        case ["load", "docker-image"]:
            begin("load")
        case ["delete", "cluster"]:
            begin("delete")
            cluster.unlink(missing_ok=True)


def istioctl():
    if WORDS[0] == "version":
        print(os.environ.get("FAKE_ISTIO", "1.8.3"))
    elif WORDS[0] == "install":
        begin("install")
        (HOME / "done-install").touch()
    elif WORDS[0] == "kube-inject":
        print(sys.stdin.read())


def kubectl():
    begin("apply")
    (HOME / "done-apply").touch()


def docker():
    """What reading from the node runs there."""
    match WORDS[2:]:
        case ["crictl", *_]:
            print(json.dumps({"info": {"pid": 1}}))
        case ["nsenter", "--target", _, "--net", *words] if (HOME / "answers").exists():
            answer = HOME / "answers" / "_".join(words)
            if not answer.exists():
                print(f"nsenter: failed to execute {words[0]}: No such file or directory", file=sys.stderr)
                sys.exit(127)
            print(answer.read_text(), end="")
        case [*_, "iptables", "-V"]:
            print("iptables v1.8.7 (legacy)")


with (HOME / "calls.log").open("a") as log:
    log.write(json.dumps([PROGRAM, *WORDS, os.environ.get("KUBECONFIG", "")]) + "\n")
{"kind": kind, "istioctl": istioctl, "kubectl": kubectl, "docker": docker}[PROGRAM]()
