"""The services of Textway, one folder each; `__main__` is the command that runs them."""
