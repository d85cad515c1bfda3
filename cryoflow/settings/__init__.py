"""Settings of a user and of a site, and the profiles that stages run in."""
