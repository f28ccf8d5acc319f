"""The command line `genesis`: one file a command, imported when the command runs."""
