"""The command line: commands, and the one table of options."""
