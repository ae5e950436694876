"""The subcommands of `textseg eval`; only these and their kin talk to people."""
