"""The index: embeddings to generations that answer queries."""
