"""How the command lines read their flags and gin files."""
