"""The network that comes out: packed signs and output weights."""
