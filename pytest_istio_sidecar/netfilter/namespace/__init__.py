"""What a network namespace has beside rules: where it sends packets, and who listens."""
