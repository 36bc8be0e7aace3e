"""Scripts that make targets call."""
