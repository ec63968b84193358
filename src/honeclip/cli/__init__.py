"""The command line: one thin file a verb, which reads options, calls the work and prints what came back.

A verb's file imports the work inside its function, so that `honeclip --help` imports neither torch nor open_clip.
"""
