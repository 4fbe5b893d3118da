"""The tricks of deep learning, one file per heading; the union at a file's foot is the list of what there is."""
