"""Many streams at once: one call advances a batch of them, on one device or on many."""
