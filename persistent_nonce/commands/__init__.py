"""What the command line does: which database and key, the changes, the findings, and how they are shown."""
