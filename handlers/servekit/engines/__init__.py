"""Engines that turn token ids into token ids: base.py is their interface, each other file is one of them."""
