"""How good synthetic rows are, and whether they leak."""
