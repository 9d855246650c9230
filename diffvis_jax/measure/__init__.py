"""How fast and how wrong: a step, a session, an answer."""
