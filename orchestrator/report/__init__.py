"""A page about runs: what became of them, how they learnt, and where they differ."""
