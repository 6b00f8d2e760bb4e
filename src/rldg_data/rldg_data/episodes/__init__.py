"""One episode as arrays, built from bags, shared by all dataset formats."""
