"""What a ruleset means to the kernel. No I/O, no Istio, no pytest."""
