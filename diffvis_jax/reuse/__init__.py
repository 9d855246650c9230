"""What was computed before is given again: tokens of frames, and whole answers.

Counted apart from what differential encoding saves: a repeated screen needs no encoder at all.
"""
