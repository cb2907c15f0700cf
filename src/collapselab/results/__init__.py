"""Several experiments together: reading what is stored below a folder, one page over all of it, reproducing many."""
