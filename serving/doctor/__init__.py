"""Attacks on a running deployment, harmless ones, to see whether it is closed where it should be."""
