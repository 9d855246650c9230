"""An OpenAI-compatible server whose sessions keep what did not change (extra `serve`)."""
