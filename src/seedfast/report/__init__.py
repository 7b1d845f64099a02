"""The report of a run: plots and one static page, made from the files in its run folder alone."""
