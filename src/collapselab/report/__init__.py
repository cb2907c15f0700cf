"""Charts and pages of stored results. Nothing is trained here, and no code is specific to a paper."""
