"""Small models as people write them, each with what is true of it."""
