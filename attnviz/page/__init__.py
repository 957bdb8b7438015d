"""The interactive page of one picture: what each head attends to from each token, in one file."""
