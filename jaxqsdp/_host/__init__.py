"""How programs run on this machine: threads, BLAS, compilation and its cache, files, progress."""
