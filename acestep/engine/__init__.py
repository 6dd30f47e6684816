"""What the doors speak to: jobs that wait, run and can be cancelled, and what runs them."""
