"""What fits on a machine, and what to choose: models, their sizes, and a recommendation."""
