"""Read pickles as data: interpret the opcodes, and put a placeholder where a class or function is named.

`pickle.Unpickler` with a guarded `find_class` still sets attributes on every object it may name, and
allocates as much as a hostile file claims. This interpreter imports nothing, sets no attribute of a real
object, calls only the functions that its caller passes, and its memory is bounded by the length of the
pickle.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("INT", "LONG", "FLOAT", "STRING", "UNICODE"),
}


@dataclasses.dataclass(slots=True, eq=False)
class Placeholder:
    """A class or function that is not known, or an object made with it. Nothing was imported or called.

    Attributes:
      module, name: of the class or function.
      args: the positional arguments of the call that would have made the object.
      entries: the entries with string or integer keys that would have been set on the object.
      state: what would have set its attributes; a numpy array keeps its shape, dtype and bytes there.
    """

    module: str
    name: str
    args: tuple = ()
    entries: dict | None = None
    state: Any = None

    def __str__(self):
        return f"{self.module}.{self.name}"


def entries(value) -> dict:
    """Return the entries of a dict, or of a placeholder for a dict of another class, e.g. a defaultdict.

    A placeholder's entries are those set on it, and those of a dict or a list of pairs among its first three
    arguments: Python 2 pickles an OrderedDict as a list of pairs. Anything else has no entries.
    """
    if type(value) is dict:
        return value
    found = {}
    if isinstance(value, Placeholder):
        for arg in value.args[:3]:
            if type(arg) is dict:
                found |= arg
            elif type(arg) is list:
                pairs = [pair for pair in arg if type(pair) in (list, tuple) and len(pair) == 2]
                found |= {key: entry for key, entry in pairs if isinstance(key, str | int)}
        found |= value.entries or {}
    return found


def load(stream, known: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any]) -> Any:
    """Return the object pickled at the stream's position, and advance the stream past it.

    Args:
      stream: a binary file or memory map.
      known: values of the globals that a pickle may name, by module and name, e.g. `torch`, `FloatStorage`.
        Every other global becomes a `Placeholder`. Sets become placeholders too, and a dict keeps its entries
        with string and integer keys only.
      persistent: returns the object of a persistent id.

    Raises:
      ValueError: the pickle is damaged, or uses an opcode that is not known; the text names it.
    """
    try:
        return _interpret(stream, known, persistent)
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"damaged pickle ({error!r})") from error


def _interpret(stream, known, persistent):
    stack, marks, memo = [], [], {}

    def since_mark():
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def find(module, name):
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a global has no name")
        value = known.get((module, name))
        return Placeholder(module, name) if value is None else value

    for opcode, arg, _ in pickletools.genops(stream):
        match opcode.name:
            case name if name in VALUES:
                stack.append(arg)
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[arg])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "MARK":
                marks.append(len(stack))
            case "POP" if marks and marks[-1] == len(stack):
                marks.pop()
            case "POP":
                stack.pop()
            case "POP_MARK":
                since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(since_mark())
            case "APPEND":
                _extend(stack[-2], [stack.pop()])
            case "APPENDS" | "ADDITEMS":
                items = since_mark()
                _extend(stack[-1], items)
            case "EMPTY_SET":
                stack.append(Placeholder("builtins", "set"))
            case "FROZENSET":
                since_mark()
                stack.append(Placeholder("builtins", "frozenset"))
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = since_mark()
                stack.append({})
                _update(stack[-1], items[::2], items[1::2])
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key], [value])
            case "SETITEMS":
                items = since_mark()
                _update(stack[-1], items[::2], items[1::2])
            case "GLOBAL":
                stack.append(find(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(find(module, name))
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(Placeholder("copyreg", f"extension {arg}"))
            case "REDUCE" | "NEWOBJ":
                args, function = stack.pop(), stack.pop()
                stack.append(_call(function, args))
            case "NEWOBJ_EX":
                _, args, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(_call(function, args))
            case "INST":
                args = tuple(since_mark())
                stack.append(_call(find(*arg.split(" ", 1)), args))
            case "OBJ":
                function, *args = since_mark()
                stack.append(_call(function, tuple(args)))
            case "BUILD":
                state = stack.pop()  # attributes, e.g. the `_metadata` of a state dict
                if isinstance(stack[-1], Placeholder):
                    stack[-1].state = state
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "PROTO" | "FRAME" | "STOP" | "READONLY_BUFFER":
                pass
            case name:
                raise ValueError(f"it uses the pickle opcode {name}, which is not read")
    return stack.pop()


def _call(function, args):
    if type(args) is not tuple:
        raise TypeError("arguments must be a tuple")
    if isinstance(function, Placeholder):
        return Placeholder(function.module, function.name, args)
    return function(*args)


def _extend(target, items):
    if isinstance(target, Placeholder):
        return
    if type(target) is not list:
        raise TypeError("only a list can be extended")
    target.extend(items)


def _update(target, keys, values):
    if isinstance(target, Placeholder):
        target.entries = target = {} if target.entries is None else target.entries
    if type(target) is not dict:
        raise TypeError("only a dict can have entries")
    # Other keys name no tensor, and hashing a deeply nested tuple would overflow the C stack.
    pairs = zip(keys, values, strict=True)
    target.update({key: value for key, value in pairs if isinstance(key, str | int)})
