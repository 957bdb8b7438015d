"""Takes one picture from pixels to maps: the model runs once, then answers any query."""
