"""What the tracer and the space share of the kernel: the order of base chains, and what targets do."""
