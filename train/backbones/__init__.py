"""Frozen backbones by name."""
