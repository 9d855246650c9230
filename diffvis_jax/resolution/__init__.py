"""How large frames are: what each size costs and finds, and which one fits a budget of time."""
