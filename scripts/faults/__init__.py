"""Faults for real studies: what is struck, and whether anything was lost. `scripts/chaos` draws and counts them."""
