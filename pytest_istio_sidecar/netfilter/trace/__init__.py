"""One packet through the rules, as the kernel takes it."""
