"""The processes of a pod, and what is left of it in the end: processes, lease, directory."""

import os
import time
from pathlib import Path


def processes_naming(text):
    """The processes of this machine with `text` in their command line, other than this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(text) in command:
                found.append((int(entry.name), command.replace(b"\0", b" ").decode()))
    return found


def processes_in(pid_namespace):
    """The processes of a PID namespace, by the link text of /proc/PID/ns/pid."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if str((entry / "ns/pid").readlink()) == pid_namespace:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def wait_until_nothing_is_left(directory, seconds=10):
    """Assert that no process names the directory and that no lease, and nothing leased, is in it."""
    deadline = time.monotonic() + seconds
    while True:
        left = processes_naming(directory)
        place = Path(directory) / "istio-sidecar"
        left += sorted(place.iterdir()) if place.exists() else []
        if not left:
            return
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.02)


SIGNAL = """
import os, sys
from pathlib import Path
for comm in Path("/proc").glob("[0-9]*/comm"):
    try:
        if comm.read_text().strip() == sys.argv[1]:
            os.kill(int(comm.parent.name), int(sys.argv[2]))
    except OSError:
        pass
"""


def send_signal(pod, program, signal):
    """Send a signal to a program of a pod; /proc there shows the pod's own processes only."""
    done = pod._runner.run(["python3", "-c", SIGNAL, program, str(int(signal))], timeout=5)
    assert done.succeeded, done.stderr
