"""Fields as data: how images of a field may be changed, how its labels become prompts, what its best model is.

schema.py says what a file may hold, domain.py reads it; each preset is one TOML file beside them. `honeclip domains show
NAME` prints one to copy and edit.
"""
