"""One episode as arrays, built from bags: what all formats share."""
