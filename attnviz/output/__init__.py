"""Everything that is written: records, the bytes of files, and whole files from explanations."""
