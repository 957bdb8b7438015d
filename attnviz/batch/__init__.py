"""Folders of pictures: the run over them, and what is made of all their records."""
