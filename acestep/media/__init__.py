"""Sound as samples and as files, and what can be measured of it; knows nothing about models."""
