"""The mesh as those see it who go through it: names and lines on the wire, identities, and the way to a service."""
