"""The command line: what can be asked for, and the one table of options."""
