"""What one does with the package: audit a teacher, compare methods, measure T. stddev, run the demo."""
