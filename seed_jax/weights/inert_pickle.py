"""Read pickles as data: interpret only the opcodes that plain containers need.

`pickle.Unpickler` with a guarded `find_class` still sets attributes on every object it may name, and
allocates as much as a hostile file claims. This interpreter imports nothing, sets no attribute, and its
memory is bounded by the length of the pickle.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES"),
}


def load(stream, known: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """Return the object pickled at the stream's position, and advance the stream past it.

    Args:
      stream: a binary file or memory map.
      known: values of the globals that a pickle may name, by `MODULE NAME`, e.g. `torch FloatStorage`.
      persistent: returns the object of a persistent id.

    Raises:
      ValueError: the pickle is damaged, or uses a global or opcode that is not known; the text names it.
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
        if f"{module} {name}" not in known:
            raise ValueError(f"it pickles {module}.{name}, which is neither a tensor nor a plain container")
        return known[f"{module} {name}"]

    for opcode, arg, _ in pickletools.genops(stream):
        match opcode.name:
            case name if name in VALUES:
                stack.append(arg)
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                _extend(stack[-2], [stack.pop()])
            case "APPENDS":
                items = since_mark()
                _extend(stack[-1], items)
            case "EMPTY_DICT":
                stack.append({})
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
            case "REDUCE" | "NEWOBJ":
                args, function = stack.pop(), stack.pop()
                stack.append(function(*args))
            case "BUILD":
                stack.pop()  # attributes, e.g. the `_metadata` of a state dict: not needed
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "PROTO" | "FRAME" | "STOP":
                pass
            case name:
                raise ValueError(f"it uses the pickle opcode {name}, which weights do not need")
    return stack.pop()


def _extend(target, items):
    if type(target) is not list:
        raise TypeError("only a list can be extended")
    target.extend(items)


def _update(target, keys, values):
    # Hashing a deeply nested tuple would overflow the C stack.
    if type(target) is not dict or not all(isinstance(key, str | int) for key in keys):
        raise TypeError("entries need a plain dict, and keys that are strings or integers")
    target.update(zip(keys, values, strict=True))
