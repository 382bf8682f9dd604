"""Ask a server for embeddings, findings and similar cases."""
