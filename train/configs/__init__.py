"""Training configurations, one YAML a system."""
