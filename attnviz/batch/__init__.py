"""Any number of pictures: found, done in groups, resumed, and told about together."""
