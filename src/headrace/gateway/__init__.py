"""The S3 endpoint: protocol, signatures, operations."""
