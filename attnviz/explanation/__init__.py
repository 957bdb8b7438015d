"""One picture from pixels to maps: the model runs once, and is then asked any question."""
