"""A row or a batch to look at: what the model sees of it, and what is trained."""
