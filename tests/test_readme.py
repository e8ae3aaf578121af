"""The README's Python runs, and its set-up commands are what the gate runs."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_blocks_run_in_order(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 9
    namespace = {}
    for block in blocks:
        exec(block, namespace)
    printed = capsys.readouterr().out
    assert "Certificate(" in printed
    assert "QuantizedNetwork(" in printed
    assert "AdjointReport(" in printed
    assert "Compression(" in printed
    assert 0 < namespace["fit"].certificate.gap < 0.5


def test_set_up_is_two_commands():
    commands = [
        line
        for block in re.findall(r"```sh\n(.*?)```", README, flags=re.S)
        for line in block.splitlines()
    ]
    assert len(commands) == 2
    assert commands[0].endswith("-m jaxqsdp")
    assert commands[1].endswith("-m pytest")
