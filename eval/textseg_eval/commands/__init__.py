"""The subcommands of `textseg eval`; only these talk to people."""
