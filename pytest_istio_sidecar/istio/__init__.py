"""What Istio means by a ruleset: ports, options, expected rules, listeners. Facts, no I/O."""
