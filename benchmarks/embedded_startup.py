"""How long an embedded pod takes from nothing to ready, beside the slowest of its programs alone.

    python benchmarks/embedded_startup.py [RUNS]

Starts httpbin by itself on a port of this machine, and a pod, in turn; wall time until each answers. Prints
the median of each part over RUNS pods (default 10), in milliseconds. The parts that overlap (Envoy and
httpbin start side by side) show what was still to be waited for.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import time
from urllib.request import urlopen

from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment

MOST = 1.6
"""Times as long as httpbin alone."""
PATIENCE_SECONDS = 60


def main(runs: int) -> int:
    parts: dict[str, list[float]] = {}
    ratios = []
    for _ in range(runs):
        alone = seconds_of_httpbin()
        begin = time.monotonic()
        pod = EmbeddedEnvironment.start()
        ready = time.monotonic()
        pod.send_request("inbound")
        answered = time.monotonic()
        pod.stop()
        ended = time.monotonic()
        inside = sum(pod.parts.values())
        measured = {
            **pod.parts,
            "around it": ready - begin - inside,
            "from nothing to ready": ready - begin,
            "httpbin alone": alone,
            "first request": answered - ready,
            "stop": ended - answered,
        }
        ratios.append((ready - begin) / alone)
        for name, seconds in measured.items():
            parts.setdefault(name, []).append(seconds)
    for name, seconds in parts.items():
        median, worst = statistics.median(seconds), max(seconds)
        print(f"{name:<24}{median * 1000:8.0f} ms   worst {worst * 1000:.0f}")
    ratio = statistics.median(ratios)
    met = ratio <= MOST
    print(f"{ratio:.2f} × as long as httpbin alone (target ≤ {MOST} ×): {'met' if met else 'missed'}")
    return 0 if met else 1


def seconds_of_httpbin() -> float:
    """Wall time until httpbin, started as the pod starts it but with nothing around it, answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "1"]
    begin = time.monotonic()
    process = subprocess.Popen(
        [*server, "--no-control-socket", "httpbin:app"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while time.monotonic() - begin < PATIENCE_SECONDS:
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/status/200", timeout=5):
                return time.monotonic() - begin
            time.sleep(0.01)
        sys.exit(f"httpbin did not answer within {PATIENCE_SECONDS} s")
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
