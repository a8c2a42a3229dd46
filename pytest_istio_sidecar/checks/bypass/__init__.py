"""What gets by without Envoy: found, named in writing, reviewed."""
