"""One script a question; each prints a table and can write JSON."""
