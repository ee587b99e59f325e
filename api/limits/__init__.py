"""How much each key has asked for lately, counted by all API processes of this host in one file."""
