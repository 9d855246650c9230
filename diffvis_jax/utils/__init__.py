"""Small helpers that know nothing of vision."""
