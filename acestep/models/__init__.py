"""The networks: modules whose attribute names are the checkpoint's keys, and what loads them."""
