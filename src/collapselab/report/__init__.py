"""Charts and pages: what stored results show. Nothing is trained here, and no paper is known by name."""
