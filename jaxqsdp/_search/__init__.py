"""Good neurons and output weights: descents, local search, column generation."""
