"""A pod of a cluster: the Kubernetes API, the pod's workload, traffic, and what is put back."""
