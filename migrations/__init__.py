"""The schema, revision by revision; `service.storage.migrate` runs them."""
