"""Models: finding and loading them, their two towers and heads, their size, and the folder that open_clip reads.

`load.load` takes every model source and gives a `clip.Clip`; `towers` splits it into what training and caching need;
`folder.save` writes it in open_clip's hub layout. The loss, the training step and the config are unknown here.
"""
