"""The drawing page: its files, its server, and the folder for static hosts."""
