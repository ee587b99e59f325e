"""What requests used, on its way from the door to the database."""
