"""The store: small rows that outlive the process."""
