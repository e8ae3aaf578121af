"""What `python -m jaxqsdp` is made of. Needs the extra `demo`.

main: options ─► source ─► delimited or arrays ─► table ─► prepare ─► train
                                       ─► report, picture, the network's file
"""
