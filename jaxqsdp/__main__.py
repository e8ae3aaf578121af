"""`python -m jaxqsdp`: train a quantized network on real data, with a certificate."""

from ._cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
