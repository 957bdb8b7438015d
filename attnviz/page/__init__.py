"""The interactive page of one picture: what every head attends to from every token, in one file."""
