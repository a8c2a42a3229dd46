"""Rules as iptables writes them, read and written."""
