"""Finding what can be clicked: a light head on a tower's tokens, and its decoding."""
