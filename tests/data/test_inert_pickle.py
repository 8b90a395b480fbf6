"""Pickles written by hand: whatever the opcodes, nothing is imported or called, and memory is bounded."""

import collections
import contextlib
import io
import struct
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_jax.data import inert_pickle
from seed_jax.weights import torch_file


@pytest.mark.parametrize(
    ("pickled", "says"),
    [
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "expected 2147483647"),  # a string of 2 GB
        (b"\x80\x02\x8b\xff\xff\xff\x7fabc.", "not enough data"),  # a number of 2 GB
        (b"\x80\x02]r\xff\xff\xff\xff.", None),  # a memo index of 4 G: kept as one entry
        (b"\x80\x02}(" + b"(" * 10**5 + b"t" * 10**5 + b"K\1u.", None),  # a tuple too deep to hash
        (b"\x80\x02ccollections\nOrderedDict\n}b.", None),  # attributes for a global: dropped
        (b"\x80\x04]\x8c\x06system\x93.", "damaged"),
        (b"cos\nsystem\n]R.", "damaged"),  # arguments that are no tuple
        (b"\x80\x02", "exhausted"),
        (b"0.", "damaged"),
        (b"\x97.", "NEXT_BUFFER"),
        (b".", "damaged"),
    ],
)
def test_hostile_pickles(pickled, says):
    def load():
        return inert_pickle.load(io.BytesIO(pickled), torch_file.KNOWN, lambda pid: pid)

    if says is None:
        load()
    else:
        with pytest.raises(ValueError, match=says):
            load()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"(i%b\n(K\1K\2l0",  # INST
        b"(c%b\nK\1o0",  # OBJ
        b"c%b\n)R0",  # REDUCE
        b"c%b\n)\x81K\1b0",  # NEWOBJ, BUILD
        b"c%b\n)}\x920",  # NEWOBJ_EX
        b"c%b\n)R)R(K\1K\2e(K\1\x90K\3a}b0",  # the object called; APPENDS, ADDITEMS, APPEND, BUILD
        b"c%b\n}bK\1K\2s(K\3K\4u0",  # the class: BUILD, SETITEM, SETITEMS
        b"\x82\1)R0\x83\1\0)R0\x84\1\0\0\0)R0",  # EXT1, EXT2, EXT4
        b"\x8f(K\1\x900(K\1\x910",  # EMPTY_SET, ADDITEMS, FROZENSET
        b"(K\1(K\2K\3" + b"1" + b"0" + b"0",  # POP_MARK, POP of a value and of a mark
        b"K\0012" + b"00",  # DUP
        b"cbuiltins\ngetattr\n(c%b\nX\4\0\0\0exittR0",  # getattr
    ],
)
def test_every_opcode_is_inert(opcodes, monkeypatch, tmp_path):
    """A module that raises when it is imported, and an attribute of a real class that must not be set."""
    (tmp_path / "raising.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in (b"raising\nSystem", b"collections\nOrderedDict", b"os\nsystem"):
        before = set(vars(collections.OrderedDict)), set(sys.modules)
        pickled = opcodes.replace(b"%b", name) + b"X\2\0\0\0ok."
        assert inert_pickle.load(io.BytesIO(pickled), torch_file.KNOWN, lambda pid: pid) == "ok"
        assert (set(vars(collections.OrderedDict)), set(sys.modules)) == before


LONG = b"X" + struct.pack("<I", 10**4) + b"a" * 10**4
MANY = b"(" + b"N" * 10**4 + b"l"


@pytest.mark.parametrize(
    "pickled",
    [
        LONG + b"q\0" + b"(" + b"h\0h\0\x93" * 10**4 + b"t.",  # names of classes
        MANY + b"q\0\x85q\1" + b"(" + b"ctorch\nSize\nh\1R" * 10**4 + b"t.",  # a list as a size
        MANY + b"q\0\x85q\1" + b"(" + b"ccollections\nOrderedDict\nh\1R" * 10**4 + b"t.",
        MANY + b"q\0\x85q\1" + b"(" + b"cos\nsystem\n)Rq\2(h\0e" * 10**4 + b"t.",
        b"cos\nsystem\nq\0" + b"h\0" * 10**5 + b")" + b"R\x85" * 10**5 + b".",  # nested calls
        b"]q\0" + b"(h\0l" * 10**5 + b".",
    ],
)
def test_placeholders_take_memory_in_proportion_to_the_pickle(pickled):
    tracemalloc.start()
    tree = inert_pickle.load(io.BytesIO(pickled), torch_file.KNOWN, lambda pid: pid)
    inert_pickle.entries(tree)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 + 100 * len(pickled)


OPCODES = [
    *(bytes([code]) for code in range(256)),
    *(b"K\1", b"K\2", b"X\1\0\0\0a", b"X\7\0\0\0storage", b"q\1", b"h\1", b"\x80\2"),
    *(f"c{module}\n{name}\n".encode() for module, name in [*torch_file.KNOWN, ("os", "system")]),
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(OPCODES), max_size=40))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_any_sequence_of_opcodes_gives_data_or_valueerror(opcodes):
    stream = io.BytesIO(b"".join(opcodes) + b".")
    with contextlib.suppress(ValueError):
        torch_file._unpickle(stream, {})
