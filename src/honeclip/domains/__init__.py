"""Fields as data: how images of a field may be changed, how its labels become prompts, what its best model is.

domain.py reads them; each preset is one TOML file beside it. `honeclip domains show NAME` prints one to copy and edit.
"""
