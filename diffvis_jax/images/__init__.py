"""Pictures and recordings: geometry, preprocessing, capture."""
