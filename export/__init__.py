"""Export: checkpoint to bundle, and the runners that execute it."""
