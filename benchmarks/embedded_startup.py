"""How long an embedded pod takes from nothing to ready, part by part.

    python benchmarks/embedded_startup.py [RUNS]

Prints the median of each part over RUNS starts (default 10), in milliseconds. The parts that overlap
(Envoy and httpbin start side by side) show what was still to be waited for. Target: 1500 ms on two cores.
"""

import statistics
import sys
import time

from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment

TARGET = 1.5


def main(runs: int) -> int:
    parts: dict[str, list[float]] = {}
    for _ in range(runs):
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
            "first request": answered - ready,
            "stop": ended - answered,
        }
        for name, seconds in measured.items():
            parts.setdefault(name, []).append(seconds)
    for name, seconds in parts.items():
        median, worst = statistics.median(seconds), max(seconds)
        print(f"{name:<24}{median * 1000:8.0f} ms   worst {worst * 1000:.0f}")
    whole = statistics.median(parts["from nothing to ready"])
    print(f"target {TARGET * 1000:.0f} ms: {'met' if whole <= TARGET else 'missed'}")
    return 0 if whole <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
