"""Who listens where packets come: Envoy where it should, and nobody else on its ports."""
