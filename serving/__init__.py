"""Serving: model repositories, a local Triton server, its client, and what looks after them."""
