"""A pod without Kubernetes, in namespaces of this machine."""
