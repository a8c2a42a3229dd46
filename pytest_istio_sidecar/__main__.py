"""`python -m pytest_istio_sidecar`: the same as `istio-sidecar`."""

import sys

from pytest_istio_sidecar.cli import main

if __name__ == "__main__":
    sys.exit(main())
