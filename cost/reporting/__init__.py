"""Reports of runs: what came out and what it took, where time and money went, and what would help most."""
