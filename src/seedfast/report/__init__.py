"""What people look at afterwards: plots and one static page, made from the files in a run folder alone."""
