"""Clients of other engines, behind one protocol (`providers/chat.py`); extra `providers`."""
