"""Any number of pictures: find them, run them in groups, resume, and summarise."""
