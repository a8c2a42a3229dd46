"""Rules, listeners, observations and an expectation, turned into findings. Pure."""
