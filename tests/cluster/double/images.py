"""Builds the double's images on the test bed's `testbed/proxy-base`: proxyv2 and pilot of one version.

Knows which observed files stand for a version. Nothing is pulled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from injection import numbers

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "data"
HUB = "docker.io/istio"
BASE = "testbed/proxy-base"
OBSERVED = ("1.6.14", "1.8.3", "1.16.7", "1.20.8", "1.27.3")

_PROXY = f"""FROM {BASE}
COPY pilot_agent.py /usr/local/bin/pilot-agent
COPY envoy_configuration.py version istio-init-tables.json.gz /etc/double/
RUN chmod 755 /usr/local/bin/pilot-agent
ENV PYTHONPATH=/etc/double PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/pilot-agent"]
"""
_PILOT = f"""FROM {BASE}
COPY istiod.py /usr/local/bin/pilot-discovery
COPY injection.py pod.json version /etc/double/
RUN chmod 755 /usr/local/bin/pilot-discovery
ENV PYTHONPATH=/etc/double PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/pilot-discovery"]
"""


def observed_pod(version: str) -> Path:
    """The pod that a version's pods are made after: of the newest observed version that is not newer."""
    older = [known for known in OBSERVED if numbers(known) <= numbers(version)]
    known = older[-1] if older else OBSERVED[0]
    # the one whose other recording is of kube-inject
    name = "pod-webhook.json" if known == "1.6.14" else "pod.json"
    return DATA / f"observed-{known}" / name


def build(version: str, *, hub: str = HUB) -> tuple[str, str]:
    """Build both images of a version; returns their names, proxy first."""
    names = (f"{hub}/proxyv2:{version}", f"{hub}/pilot:{version}")
    with tempfile.TemporaryDirectory() as directory:
        context = Path(directory)
        for name in ("pilot_agent.py", "envoy_configuration.py", "istiod.py", "injection.py"):
            shutil.copy(HERE / name, context)
        shutil.copy(DATA / "istio-init-tables.json.gz", context)
        shutil.copy(observed_pod(version), context / "pod.json")
        (context / "version").write_text(version)
        for path in context.iterdir():
            path.chmod(0o644)
        for name, text in zip(names, (_PROXY, _PILOT), strict=True):
            (context / "Dockerfile").write_text(text)
            subprocess.run(
                ["docker", "build", "--quiet", "--tag", name, directory],
                check=True,
                stdout=subprocess.DEVNULL,
                timeout=300,
                # the builder that needs no image but the ones here
                env={**os.environ, "DOCKER_BUILDKIT": "0"},
            )
    return names


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(*build(wanted), sep="\n")
