"""The lab, from nothing: a kind cluster, Istio, httpbin."""
