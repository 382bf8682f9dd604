"""Evaluation: relevance, metrics, protocols and the report."""
