"""The shipped gate is made here: its windows, its training, its figures."""
