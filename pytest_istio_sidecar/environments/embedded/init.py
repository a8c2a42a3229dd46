"""The first process of an embedded pod: builds it, serves it, and ends it with its owner.

Runs as a program inside namespaces that `network_namespace` made for it, with the standard
library alone; what it builds comes to it as JSON. Knows nothing of Istio or of pytest.
Invariant: it is process 1 of its PID namespace, so all that it starts ends with it, and it
ends when its owner does, however the owner ended.
"""

# pathlib alone would take as long to import as the pod's networks take to build.
# ruff: noqa: PTH101, PTH108, PTH110, PTH119, PTH120, PTH123

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_istio_sidecar.environments.embedded.specification import Specification

CLIENT_NETWORK = "/run/netns/client"
"""Where iproute2 keeps the client's network namespace; /run is a private tmpfs here."""

KEPT = "kept"
"""A file in the pod's directory: the pod is to go on when its owner has ended."""

_CLONE_NEWNET = 0x40000000
_IPV6 = "/proc/net/if_inet6"
"""There where the kernel has IPv6."""
_MOUNT_HARDENING = 0x2 | 0x4
"""MS_NOSUID | MS_NODEV, from linux/mount.h."""
_LARGEST_ANSWER = 1 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)


class PodProblemError(Exception):
    """Why the pod cannot come up: a sentence, and what a program said of it as labelled facts."""

    def __init__(self, sentence: str, *facts: tuple[str, str]) -> None:
        super().__init__(sentence)
        self.facts = [fact for fact in facts if fact[1]]


class Starter:
    """The process that waits for the pod; until it has let go, its end is the pod's end."""

    def __init__(self, descriptor: int, owner: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._owner = owner
        self._begin = time.monotonic()

    def tell(self, **fact: object) -> None:
        """Send one line of JSON; a starter that has gone away is BrokenPipeError."""
        self._socket.sendall(json.dumps(fact).encode() + b"\n")

    def tell_part(self, name: str) -> None:
        """Report a finished part, with the seconds since the last one."""
        now = time.monotonic()
        self.tell(part=name, seconds=now - self._begin)
        self._begin = now

    def check(self) -> None:
        """End the pod when nobody waits for it any more."""
        if select.select([self._socket.fileno(), self._owner], [], [], 0)[0]:
            raise BrokenPipeError("nobody waits for this pod")

    def let_go(self) -> None:
        """Report readiness; wait until the starter has taken it in."""
        self.tell(ready=True)
        with self._socket:
            readable = select.select([self._socket.fileno(), self._owner], [], [])[0]
            if self._owner in readable or not self._socket.recv(1):
                raise BrokenPipeError("nobody waits for this pod")


def run(request: Mapping[str, object]) -> dict[str, object]:
    """Run `argv` in the pod; exit status 127 where there is no such program, null when out of time."""
    begin = time.monotonic()
    argv = [str(word) for word in request["argv"]]  # type: ignore[attr-defined]
    text = str(request.get("input") or "")
    try:
        done = subprocess.run(  # noqa: PLW1510 - a failure is told, not raised
            argv, input=text.encode(), capture_output=True, timeout=float(str(request["timeout"]))
        )
        status, out, err = done.returncode, done.stdout, done.stderr
    except FileNotFoundError:
        status, out, err = 127, b"", f"{argv[0]}: not found\n".encode()
    except subprocess.TimeoutExpired as late:
        status, out, err = None, late.stdout or b"", late.stderr or b""
    return {
        "exit_status": status,
        "stdout": out.decode(errors="backslashreplace"),
        "stderr": err.decode(errors="backslashreplace"),
        "seconds": time.monotonic() - begin,
    }


def exchange(request: Mapping[str, object]) -> dict[str, object]:
    """Open a connection as `uid` and `gid` from the pod or the client, send, and read to its end."""
    if request["network"] == "client":
        enter_client_network()
    become(int(str(request["uid"])), int(str(request["gid"])))
    answer: dict[str, object] = {"local": None, "received": "", "error": ""}
    received = b""
    try:
        address = (str(request["address"]), int(str(request["port"])))
        with socket.create_connection(address, timeout=float(str(request["timeout"]))) as connection:
            answer["local"] = connection.getsockname()[:2]
            connection.sendall(str(request["payload"]).encode())
            while len(received) < _LARGEST_ANSWER and (chunk := connection.recv(65536)):
                received += chunk
    except TimeoutError:
        answer["error"] = "timed out"
    except OSError as problem:
        answer["error"] = (problem.strerror or str(problem)).lower()
    answer["received"] = received.decode(errors="backslashreplace")
    return answer


def mount_private_run() -> None:
    """Put an own tmpfs on /run: iptables' lock and iproute2's names must not meet the machine's."""
    if _LIBC.mount(b"tmpfs", b"/run", b"tmpfs", _MOUNT_HARDENING, b"mode=1777,size=16m"):
        raise PodProblemError(f"mount tmpfs on /run: {os.strerror(ctypes.get_errno())}")


def enter_client_network() -> None:
    """Move this process to the client's network namespace (os.setns is newer than Python 3.11)."""
    descriptor = os.open(CLIENT_NETWORK, os.O_RDONLY)
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        raise PodProblemError(f"enter the client's network: {os.strerror(ctypes.get_errno())}")
    os.close(descriptor)


def become(uid: int, gid: int) -> None:
    """Give up being root: the owner match sees the ids a socket was created with."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def command(argv: Sequence[str], text: str = "") -> None:
    """Run one command that must succeed."""
    done = run({"argv": argv, "input": text, "timeout": 10})
    if done["exit_status"] == 0:
        return
    status = "no end" if done["exit_status"] is None else f"exit {done['exit_status']}"
    raise PodProblemError(
        f"{argv[0].rpartition('/')[2]} failed while the pod was built",
        ("ran", f"{' '.join(argv)}   {status} after {done['seconds']:.1f} s"),
        ("stderr", "\n".join(str(done["stderr"]).splitlines()[:5])),
    )


def build_networks(pod: Specification) -> None:
    """Make the client's namespace beside the pod's own, and a veth pair between the two."""
    ip = pod["ip"]
    command([ip, "netns", "add", "client"])
    command([ip, "-batch", "-"], "\n".join(pod["pod_commands"]))
    command([ip, "-n", "client", "-batch", "-"], "\n".join(pod["client_commands"]))
    for argv in pod["policy_routes"]:
        command(argv)
    set_parameter("net/ipv4/ip_unprivileged_port_start", "0")
    if os.path.exists(_IPV6):
        # One socket for each family: an IPv4 client has an IPv4 address on it.
        set_parameter("net/ipv6/bindv6only", "1")


def set_parameter(name: str, value: str) -> None:
    """Set a parameter of this network namespace (sysctl(8))."""
    with open(f"/proc/sys/{name}", "w", encoding="ascii") as setting:
        setting.write(value)


def serve_stand_in(who: str, ports: Sequence[int], network: str, uid: int) -> int:
    """Start a process that answers every request on these ports with its own name and port."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        ready = os.read(reader, 1)
        os.close(reader)
        if not ready:
            raise PodProblemError(f"the {who} on ports {', '.join(map(str, ports))} did not come up")
        return child
    with ending_the_process():
        if network == "client":
            enter_client_network()
        become(uid, uid)
        listeners = [socket.create_server(("", port)) for port in ports]
        if os.path.exists(_IPV6):
            listeners += [socket.create_server(("::", port), family=socket.AF_INET6) for port in ports]
        os.write(writer, b"!")
        while True:
            for listener in select.select(listeners, [], [])[0]:
                connection = listener.accept()[0]
                threading.Thread(target=answer, args=(who, connection), daemon=True).start()
    raise AssertionError("unreachable")


def answer(who: str, connection: socket.socket) -> None:
    """Answer one connection, saying who answers and whom it sees."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        heard = b""
        while b"\r\n\r\n" not in heard and (chunk := connection.recv(65536)):
            heard += chunk
        port = connection.getsockname()[1]
        facts = {
            "answered_by": who,
            "port": port,
            "note": f"{who} for port {port} of the embedded pod" if who == "stand-in" else "",
            "peer": "{}:{}".format(*connection.getpeername()[:2]),
        }
        body = json.dumps(facts)
        head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())


class Services:
    """The programs of the pod; each writes to a file of its own in the pod's directory."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        out, err = (
            os.open(f"{name}.{kind}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600, dir_fd=self._directory)
            for kind in ("out", "err")
        )
        self._running[name] = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/", env=dict(environment)
        )
        os.close(out)
        os.close(err)

    def check(self) -> None:
        """Raise when one has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise PodProblemError(
                    f"{name} ended with status {process.returncode}", ("stderr", self._last_words(name))
                )

    def ended(self) -> list[str]:
        """Those that have ended, each with its status."""
        return [
            f"{name} (status {process.returncode})"
            for name, process in self._running.items()
            if process.poll() is not None
        ]

    def running(self) -> set[int]:
        """Process ids of those that this class has yet to collect."""
        return {process.pid for process in self._running.values() if process.returncode is None}

    def _last_words(self, name: str) -> str:
        descriptor = os.open(f"{name}.err", os.O_RDONLY, dir_fd=self._directory)
        with open(descriptor, "rb") as log:
            return "\n".join(log.read().decode(errors="backslashreplace").splitlines()[-6:])

    def wait_for(self, name: str, port: int, path: str, deadline: float, starter: Starter) -> None:
        """Wait until a service answers `200` on a local port."""
        seen = "no connection"
        while time.monotonic() < deadline:
            starter.check()
            self.check()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nhost: pod\r\n\r\n".encode())
                # A web server listens before it can answer: its own death must not be waited out.
                while time.monotonic() < deadline and not select.select([connection], [], [], 0.1)[0]:
                    starter.check()
                    self.check()
                seen = connection.recv(64).decode(errors="backslashreplace").partition("\r\n")[0]
                if " 200 " in f"{seen} ":
                    return
            time.sleep(0.005)
        raise PodProblemError(
            f"{name} did not become ready in time; last seen on port {port}: {seen}",
            ("stderr", self._last_words(name)),
        )


@contextlib.contextmanager
def ending_the_process() -> Iterator[None]:
    """Keep a forked child from ever returning into its parent's code."""
    try:
        yield
    finally:
        problem = sys.exception()
        if problem is not None and not isinstance(problem, SystemExit):
            sys.excepthook(type(problem), problem, problem.__traceback__)
        sys.stderr.flush()
        os._exit(0 if problem is None else 1)


def serve_requests(control: socket.socket, owner: int, services: Services, directory: int) -> None:
    """Serve requests, one process each, until the owner has ended; where it left a sign to go on, beyond."""
    waiting = [control.fileno(), owner]
    while True:
        readable = select.select(waiting, [], [], 1.0)[0]
        if owner in readable:
            if not os.path.exists(f"/proc/self/fd/{directory}/{KEPT}"):
                return
            waiting.remove(owner)
        ended = services.ended()
        reap_others(services)
        if control.fileno() in readable:
            connection = control.accept()[0]
            if os.fork() == 0:
                with ending_the_process():
                    serve_request(connection, ended)
            connection.close()


def reap_others(services: Services) -> None:
    """Collect ended processes that are not services: as process 1 this one inherits all orphans."""
    kept = services.running()
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in kept:
                return
            os.waitpid(ended.si_pid, 0)


def serve_request(connection: socket.socket, ended: list[str]) -> None:
    """Read one line of JSON, do what it asks for, answer in one line."""
    with connection, connection.makefile("rwb") as stream:
        line = stream.readline()
        if not line:
            return  # who connected wanted to know who serves, and the socket has told
        request = json.loads(line)
        done = {"run": run, "exchange": exchange}[request["operation"]](request)
        stream.write(json.dumps({**done, "ended": ended}).encode() + b"\n")


def remove(directory: str) -> None:
    """Remove the pod's directory, then its lease: in this order, or a crash between would lose it."""
    shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(f"{directory}.json")


def main(specification: str, starter_descriptor: str, owner_descriptor: str) -> None:
    """Build the pod that the file describes, report each part, then serve it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the way every other end goes
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner = int(owner_descriptor)
    starter = Starter(int(starter_descriptor), owner)
    with open(specification, encoding="utf-8") as file:
        pod: Specification = json.load(file)
    parent = os.open(os.path.dirname(pod["directory"]), os.O_PATH)
    directory = os.open(pod["directory"], os.O_PATH)
    # /run may hold that directory, and is covered from here on: reach it by descriptor.
    place = f"/proc/self/fd/{parent}/{os.path.basename(pod['directory'])}"
    services = Services(directory)
    try:
        build(pod, services, starter)
        control = socket.socket(socket.AF_UNIX)
        control.bind(f"/proc/self/fd/{directory}/control")
        control.listen(64)
        starter.let_go()
        serve_requests(control, owner, services, directory)
    except PodProblemError as problem:
        starter.tell(problem=str(problem), facts=problem.facts)
    except BrokenPipeError:
        pass  # nobody is left to be told
    finally:
        remove(place)


def build(pod: Specification, services: Services, starter: Starter) -> None:
    """Bring everything up, the slow programs side by side."""
    os.environ.update(pod["environment"])
    mount_private_run()
    build_networks(pod)
    starter.tell_part("namespaces")
    with open("/run/envoy.json", "w", encoding="utf-8") as bootstrap:
        json.dump(pod["envoy_bootstrap"], bootstrap)
    os.chmod("/run/envoy.json", 0o644)
    for name, argv in pod["services"].items():
        services.start(name, argv, pod["environment"])
    for stand_in in pod["stand_ins"]:
        serve_stand_in(**stand_in)
    starter.tell_part("stand-ins")
    deadline = time.monotonic() + pod["seconds"]
    for name, port, path in pod["ready"]:
        services.wait_for(name, port, path, deadline, starter)
        starter.tell_part(name)
    # Last, though Istio loads them first: broken ones must not keep the pod from coming up,
    # and the counters then count what is sent to test them and nothing else.
    for rules in pod["rules"]:
        command(rules["argv"], rules["text"])
    starter.tell_part("rules")


if __name__ == "__main__":
    main(*sys.argv[1:])
