"""Where the weights of a run are, and how its processes work together on a step: alone, replicated, or sharded."""
