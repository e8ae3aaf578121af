"""One solve, whatever the solver: begin, advance, finish; padded, compiled, on the host."""
