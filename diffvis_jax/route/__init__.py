"""Where a task is answered, and the guard before everything that leaves this machine."""
