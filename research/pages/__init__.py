"""Pages: what writes the generated tables of docs/, from counting and from what the others left."""
