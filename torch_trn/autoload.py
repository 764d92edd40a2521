"""What `import torch` calls, by the entry point `torch.backends`."""


def load() -> None:
    """Nothing is left to do: importing the package, which comes before this module, registers the device.

    A module of its own, since torch asks for it in the middle of `import torch_trn` too, where that comes first.
    """
