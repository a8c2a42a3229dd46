#!/usr/bin/env python3
"""A double of Istio's pilot-agent, the one program of the image proxyv2.

    pilot-agent istio-iptables ARGUMENTS…   loads what Istio's own rule builder was recorded to install
    pilot-agent proxy sidecar ARGUMENTS…    runs Envoy, and the agent's port 15020
    pilot-agent request METHOD PATH         asks Envoy's admin port
    pilot-agent version

It stops with an error at options whose tables were not recorded.
"""

import argparse
import gzip
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from envoy_configuration import configuration

HOME = Path("/etc/double")
VERSION = (HOME / "version").read_text().strip()
NUMBERS = tuple(int(part) for part in VERSION.split("-")[0].split("."))
ADMIN = "http://127.0.0.1:15000"
NEEDS_NFT = NUMBERS >= (1, 26) or (1, 25, 4) <= NUMBERS < (1, 26)
DRAIN = "5s"
"""terminationDrainDuration where the mesh names none."""

_OPTIONS = {
    "-p": ("ProxyPort", "15001"),
    "-z": ("InboundCapturePort", "15006"),
    "-u": ("ProxyUID", "1337"),
    "-g": ("ProxyGID", "1337"),
    "-m": ("InboundInterceptionMode", "REDIRECT"),
    "-i": ("OutboundIPRangesInclude", "*"),
    "-x": ("OutboundIPRangesExclude", ""),
    "-b": ("InboundPortsInclude", "*"),
    "-d": ("InboundPortsExclude", "15090,15021,15020"),
    "-q": ("OutboundPortsInclude", ""),
    "-o": ("OutboundPortsExclude", ""),
    "-k": ("KubeVirt", ""),
    "-c": ("ExcludeInterfaces", ""),
}


def istio_iptables(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="pilot-agent istio-iptables")
    for flag, (name, default) in _OPTIONS.items():
        parser.add_argument(flag, dest=name, default=default)
    parser.add_argument("--log_output_level")
    wanted = vars(parser.parse_args(arguments))
    wanted.pop("log_output_level")
    recorded = json.loads(gzip.decompress((HOME / "istio-init-tables.json.gz").read_bytes()))
    told = {name: value for name, value in wanted.items() if value != dict(_OPTIONS.values())[name]}
    scenario = next((one["Name"] for one in recorded["scenarios"] if _differs(one["Cfg"]) == told), None)
    state = next((state for state, tags in recorded["versions"].items() if VERSION in tags), None)
    if scenario is None or state is None:
        sys.exit(f"double of pilot-agent {VERSION}: no table was recorded for {told or 'this version'}")
    table = recorded["tables"][recorded["results"][state][f"{scenario}:V4"]]
    text = re.sub(r"^(:\S+ \S+)$", r"\1 [0:0]", table, flags=re.MULTILINE) + "\n"
    print("Variables:\n----------")
    for name, value in wanted.items():
        print(f"{name}={value}")
    print(f"\nWriting following contents to rules file:\n{text}", flush=True)
    backend = "nft" if NEEDS_NFT else "legacy"
    if NEEDS_NFT:
        # its probe of the other back end leaves an empty table there
        subprocess.run(["iptables-legacy", "-t", "nat", "-L", "-n"], stdout=subprocess.DEVNULL, check=False)
    subprocess.run([f"iptables-{backend}-restore", "--noflush"], input=text, text=True, check=True)
    subprocess.run([f"iptables-{backend}-save"], check=True)


def _differs(recorded: dict[str, object]) -> dict[str, object]:
    """The options of a recorded scenario that are not the usual ones; None where one has no flag here."""
    usual = dict(_OPTIONS.values())
    unusual = {name: value for name, value in recorded.items() if name in usual and value != usual[name]}
    plain = {"InboundTunnelPort": "15008", "InboundTProxyMark": "1337", "InboundTProxyRouteTable": "133"}
    plain |= {"RestoreFormat": True, "OwnerGroupsInclude": "*", "OwnerGroupsExclude": ""}
    plain |= {"HostIPv4LoopbackCidr": "127.0.0.1/32", "SkipRuleApply": False}
    other = {k: v for k, v in recorded.items() if k not in usual and plain.get(k) != v}
    return unusual | other


class Agent(http.server.BaseHTTPRequestHandler):
    """Port 15020: readiness, which Envoy's 15021 asks, statistics, and `drain`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        if self.path.startswith("/healthz/ready"):
            try:
                urllib.request.urlopen(f"{ADMIN}/ready", timeout=2).close()
                self._answer(200, b"")
            except (OSError, urllib.error.URLError):
                self._answer(503, b"not ready\n")
        elif self.path.startswith("/stats/prometheus"):
            with urllib.request.urlopen(f"{ADMIN}/stats/prometheus", timeout=10) as statistics:
                self._answer(200, statistics.read())
        else:
            self._answer(404, b"")

    def do_POST(self) -> None:
        self.close_connection = True
        asked = urllib.request.Request(f"{ADMIN}/drain_listeners?graceful", method="POST")
        if self.path == "/drain":
            urllib.request.urlopen(asked, timeout=5).close()
        self._answer(200 if self.path == "/drain" else 404, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Probes every two seconds are nothing to write down."""


def proxy(arguments: list[str]) -> None:
    """Run Envoy once istiod has told the mesh's configuration."""
    print(f"info\tThis is a double of pilot-agent {VERSION}: {' '.join(arguments)}", flush=True)
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 15020), Agent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    istiod = os.environ.get("CA_ADDR", "istiod.istio-system.svc:15012").partition(":")[0]
    mesh = _ask_for_mesh(f"http://{istiod}:15010/double/mesh")
    told = json.loads(os.environ.get("ISTIO_META_POD_PORTS") or "[]")
    ports = [port["containerPort"] for port in told]
    name, namespace = os.environ.get("POD_NAME", ""), os.environ.get("POD_NAMESPACE", "")
    address = os.environ.get("INSTANCE_IP", "")
    node = {"id": f"sidecar~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"}
    node |= {"cluster": f"{os.environ.get('ISTIO_META_WORKLOAD_NAME', '')}.{namespace}"}
    file = Path("/etc/istio/proxy/envoy-rev0.json")
    file.write_text(json.dumps(configuration(NUMBERS, mesh=mesh, ports=ports, node=node), indent=1))
    envoy = subprocess.Popen(
        [
            *("/usr/local/bin/envoy", "-c", str(file), "--disable-hot-restart", "--concurrency", "2"),
            *("--log-level", "warning", "--drain-time-s", "45", "--parent-shutdown-time-s", "60"),
            *("--file-flush-interval-msec", "1000"),
        ]
    )

    drain = float(mesh.get("defaultConfig", {}).get("terminationDrainDuration", DRAIN).removesuffix("s"))

    def finish(_signal: int, _frame: object) -> None:
        print("info\tAgent draining Proxy", flush=True)
        threading.Timer(drain, envoy.kill).start()

    signal.signal(signal.SIGTERM, finish)
    signal.signal(signal.SIGINT, finish)
    status = envoy.wait()
    print(f"info\tEpoch 0 terminated: {status}", flush=True)
    sys.exit(0 if status == -signal.SIGKILL else status)


def _ask_for_mesh(address: str) -> dict[str, object]:
    while True:
        try:
            with urllib.request.urlopen(address, timeout=3) as answer:
                return json.loads(answer.read())
        except (OSError, ValueError) as problem:
            print(f"warning\tistiod cannot be asked, trying again: {problem}", flush=True)
            time.sleep(1)


def request(arguments: list[str]) -> None:
    port = 15000
    if arguments and arguments[0].startswith("--debug-port"):
        given = arguments.pop(0).partition("=")[2] or arguments.pop(0)
        port = int(given)
    method, path = arguments
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/{path.lstrip('/')}", method=method)
    try:
        with urllib.request.urlopen(asked, timeout=15) as answer:
            sys.stdout.buffer.write(answer.read())
    except urllib.error.HTTPError as problem:
        sys.exit(f"Error: received unsuccessful status code {problem.code}: {problem.reason}")
    except OSError as problem:
        sys.exit(f"Error: command failed: {problem}")


def main() -> None:
    command, *arguments = sys.argv[1:] or ["--help"]
    if command == "istio-iptables":
        istio_iptables(arguments)
    elif command == "proxy":
        proxy(arguments)
    elif command == "request":
        request(arguments)
    elif command == "version":
        print(f'version.BuildInfo{{Version:"{VERSION}", BuildStatus:"Double"}}')
    else:
        sys.exit(f'Error: unknown command "{command}" for "pilot-agent"')


main()
