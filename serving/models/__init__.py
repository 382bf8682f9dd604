"""What Triton's Python backend runs. Imported in the server's environment, which has neither torch nor Lightning."""
