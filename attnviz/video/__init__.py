"""Makes a film of a clip's maps; all frames share one colour scale."""
