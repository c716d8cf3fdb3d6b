"""Claim about cfpn/allocator.py."""

from cfpn.allocator import keep_freed_memory


def test_keeping_freed_memory_is_harmless_and_may_be_asked_for_twice() -> None:
    keep_freed_memory()
    keep_freed_memory()
    assert len(bytearray(1 << 22)) == 1 << 22
