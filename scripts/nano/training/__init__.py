"""The trainers, one command per network, and the loop, optimizer and losses they share."""
