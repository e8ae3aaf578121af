"""What `python -m jaxqsdp` is made of: data, report and picture. Needs the extra `demo`."""
