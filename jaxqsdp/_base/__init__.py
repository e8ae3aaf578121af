"""What everything stands on: dtypes and namespaces, loops, texts, small symmetric matrices."""
