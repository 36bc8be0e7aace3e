"""What several test files use. Nothing here is a test."""
