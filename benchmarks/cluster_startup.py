"""The kind environment against the same steps by hand: wall time of each phase, and the ratio.

    python benchmarks/cluster_startup.py [--pairs 3] -- PYTEST OPTIONS

The options are those of a run of the kind environment: --istio-version, --istio-istioctl,
--istio-load-image, --istio-set, --istio-hub, --istio-node-image, --istio-kind-config. kind and kubectl
are those on the PATH. Each pair is one run of either, in turns, on clusters of their own. By hand is a
shell script of kind, istioctl and kubectl that waits for what the lab waits for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from pytest_istio_sidecar.istio.versions import default_hub

MANIFESTS = Path(__file__).parents[1] / "manifests"
ONE_TEST = "def test_it(iptables_nat): pass\n"
BY_HAND = """
set -euo pipefail
export KUBECONFIG=$PWD/kubeconfig
begun() {{ echo "phase $(date +%s.%N) $1"; }}
begun creating
kind create cluster --name by-hand --wait 300s {create}
begun loading
{load}
begun installing
{istioctl} install -y --set profile=minimal {values}
kubectl -n istio-system rollout status deployment/istiod --timeout=300s
begun deploying
kubectl apply -f {manifests}/client.yaml
{istioctl} kube-inject -f {manifests}/httpbin.yaml | kubectl apply -f -
kubectl rollout status deployment/httpbin --timeout=300s
begun making
names=$(kubectl get deployment httpbin -o jsonpath='{{.spec.template.spec.containers[*].name}}')
place=$(tr ' ' '\\n' <<< "$names" | grep -n istio-proxy | cut -d: -f1)
at=/spec/template/spec/containers/$((place - 1))/securityContext
kubectl patch deployment httpbin --type=json -p "[
    {{\\"op\\": \\"add\\", \\"path\\": \\"$at/privileged\\", \\"value\\": true}},
    {{\\"op\\": \\"add\\", \\"path\\": \\"$at/allowPrivilegeEscalation\\", \\"value\\": true}}]"
kubectl rollout status deployment/httpbin --timeout=300s
while [ "$(kubectl get pods -l app=httpbin --no-headers | wc -l)" != 1 ]; do sleep 0.5; done
begun reading
kubectl wait pod/istio-sidecar-client --for=condition=Ready --timeout=300s
kubectl exec deployment/httpbin -c istio-proxy -- sudo iptables-legacy-save -c
begun end
"""


def values_of(options: list[str], name: str) -> list[str]:
    return [option.partition("=")[2] for option in options if option.startswith(f"{name}=")]


def by_hand(options: list[str], folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds until the rules are read, and those of each phase by its first word."""
    (version,) = values_of(options, "--istio-version") or ["1.8.3"]
    (istioctl,) = values_of(options, "--istio-istioctl") or ["istioctl"]
    create = [f"--image={image}" for image in values_of(options, "--istio-node-image")]
    create += [f"--config={config}" for config in values_of(options, "--istio-kind-config")]
    images = values_of(options, "--istio-load-image")
    values = [f"hub={hub} --set tag={version}" for hub in values_of(options, "--istio-hub")]
    values = values or [f"hub={default_hub()}"]  # as the plugin has it; a value that is given wins over it
    values += values_of(options, "--istio-set")
    script = BY_HAND.format(
        create=" ".join(create),
        load=f"kind load docker-image --name by-hand {' '.join(images)}" if images else "",
        istioctl=istioctl,
        values=" ".join(f"--set {value}" for value in values),
        manifests=MANIFESTS,
    )
    begin = time.monotonic()
    try:
        output = run(["bash", "-c", script], folder)
        total = time.monotonic() - begin
    finally:
        run(["kind", "delete", "cluster", "--name", "by-hand"], folder)
    begun = [(name, float(at)) for at, name in re.findall(r"^phase ([\d.]+) (\w+)$", output, re.MULTILINE)]
    return total, {name: after - at for (name, at), (_, after) in pairwise(begun)}


def by_plugin(options: list[str], folder: Path) -> tuple[float, dict[str, float]]:
    """The same of the plugin, without deleting the cluster."""
    (folder / "test_one.py").write_text(ONE_TEST)
    begin = time.monotonic()
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--istio-keep=always", *options]
    try:
        output = run([*argv, "--cluster-name=by-plugin"], folder)
        total = time.monotonic() - begin
    finally:
        run(["kind", "delete", "cluster", "--name", "by-plugin"], folder)
        run([sys.executable, "-m", "pytest_istio_sidecar", "clean"], folder)
    phases = re.findall(r"^istio-sidecar: ([\d.]+) s  (\w+)", output, re.MULTILINE)
    return total, {name: float(seconds) for seconds, name in phases}


def run(argv: list[str], folder: Path) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        sys.exit(f"{argv[:3]} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runtime").mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(folder / "runtime")
        for number in range(arguments.pairs):
            hand, steps = by_hand(arguments.options, folder)
            plugin, phases = by_plugin(arguments.options, folder)
            pairs.append({"by_hand": [hand, steps], "by_plugin": [plugin, phases], "ratio": plugin / hand})
            print(f"pair {number + 1}: by hand {hand:.1f} s, by plugin {plugin:.1f} s", flush=True)
            for phase, seconds in phases.items():
                print(f"  {phase:11} by hand {steps[phase]:5.1f} s, by plugin {seconds:5.1f} s", flush=True)
    ratio = statistics.median(pair["ratio"] for pair in pairs)
    print(f"median ratio {ratio:.3f} (target 1.05)")
    print(json.dumps(pairs))


if __name__ == "__main__":
    main()
