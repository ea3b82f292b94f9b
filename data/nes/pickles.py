"""The published data set's pickles, read by a machine that knows only data.

A pickle is a program. This one is run by an interpreter of our own that has lists, tuples, strings, numbers and NumPy
arrays of numbers, and nothing that could call or import anything: where a pickle names a class or function, that is a
string here, and the few such strings that make arrays are understood by what they mean. Pickles of Python 2
(protocol 0 to 2, strings in latin-1) and of Python 3 (up to protocol 5, without out-of-band buffers) are read.
"""

import codecs
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqzoo.data.nes.errors import NESFormatError


_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric", "_codecs")
_NAMES = ("ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer", "encode")
_DTYPES = {
    f"{kind}{size}" for kind, sizes in (("u", "1248"), ("i", "1248"), ("f", "248"), ("b", "1")) for size in sizes
}
_MARK = object()


@dataclass(frozen=True)
class _Global:
    """The name of something in NumPy, which stays a name."""

    name: str


@dataclass
class _DType:
    code: str
    order: str = "|"

    def resolve(self) -> np.dtype:
        return np.dtype((">" if self.order == ">" else "<") + self.code)


@dataclass
class _Array:
    """An array that gets its content later."""

    content: np.ndarray | None = None


def read_pickle(data: bytes, file: str | None = None) -> Any:
    """What a pickle holds: lists, tuples, strings, bytes, numbers, None and arrays of numbers.

    Python 2's strings come as text, decoded as latin-1. The same object may occur several times in what is returned,
    as in the pickle.

    Raises:
        `NESFormatError`: the pickle is broken or holds anything else.
    """
    machine = _Machine(data, file)
    try:
        return _finished(machine.run())
    except NESFormatError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error, RecursionError) as error:
        raise NESFormatError(f"the pickle is broken ({error!s:.100})", file, machine.opcode) from error


def _finished(value: Any) -> Any:
    """Without place-holders, on the two levels at which the data set has arrays and scalars."""
    if isinstance(value, _Array):
        return value.content
    if isinstance(value, tuple):
        return tuple(item.content if isinstance(item, _Array) else item for item in value)
    return value


class _Machine:
    def __init__(self, data: bytes, file: str | None):
        self.data = data
        self.file = file
        self.position = 0
        self.opcode = 0  # where the one at work is
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.allowance = 4 * len(data) + 1024  # bytes of arrays: a string may be used twice, but not a million times

    def error(self, cause: str) -> NESFormatError:
        return NESFormatError(cause, self.file, self.opcode)

    def take(self, count: int) -> bytes:
        if self.position + count > len(self.data):
            raise self.error("the pickle is cut off")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form if form != "d" else ">d", self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise self.error("the pickle is cut off")
        return self.take(end + 1 - self.position)[:-1].decode("latin-1")

    def marked(self) -> list[Any]:
        """Takes what lies above the last mark, and the mark."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise self.error("the pickle is broken (no mark)")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def run(self) -> Any:
        while True:
            self.opcode = self.position
            code = self.take(1)
            if code == b".":
                (value,) = self.stack
                return value
            step = _STEPS.get(code)
            if step is None:
                raise self.error(f"the pickle's instruction {code!r} makes no plain data")
            step(self)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise self.error("the pickle is broken (a mark instead of a value)")
        return value

    def append_to_list(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise self.error("the pickle appends to something that is no list")
        target.extend(items)

    def text_number(self) -> None:
        text = self.line()
        booleans = {"00": False, "01": True}
        if len(text) > 30:
            raise self.error("a number has more than 30 digits")
        self.push(booleans[text] if text in booleans else int(text.removesuffix("L")))

    def float_line(self) -> None:
        self.push(float(self.line()))

    def quoted(self) -> None:
        text = self.line().strip()
        if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
            raise self.error("a string has no quotes")
        self.push(codecs.escape_decode(text[1:-1].encode("latin-1"))[0].decode("latin-1"))

    def load_global(self, module: str, name: str) -> None:
        if module not in _MODULES or name not in _NAMES:
            raise self.error(f"the pickle asks for {module[:40]}.{name[:40]}, which is no plain data")
        self.push(_Global(name))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise self.error("the pickle is broken (a name that is no string)")
        self.load_global(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not _Global or type(arguments) is not tuple:
            raise self.error("the pickle calls something that is no function of NumPy")
        name = function.name
        if name == "dtype" and type(arguments[0]) is str and arguments[0] in _DTYPES:
            self.push(_DType(arguments[0]))
        elif name == "_reconstruct" and arguments[0] == _Global("ndarray"):
            self.push(_Array())
        elif name == "scalar" and type(arguments[0]) is _DType:
            (value,) = np.frombuffer(self.raw(arguments[1]), dtype=arguments[0].resolve())
            self.push(value.item())
        elif name == "_frombuffer" and type(arguments[1]) is _DType:
            self.push(_Array(self.array(arguments[0], arguments[1], arguments[2], arguments[3] == "F")))
        elif name == "encode" and arguments[1] == "latin1" and type(arguments[0]) is str:
            self.push(self.raw(arguments[0]))
        else:
            raise self.error(f"the pickle makes something else than an array of numbers with {name}")

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if type(target) is _DType and type(state) is tuple and state[1] in ("<", ">", "|", "="):
            target.order = state[1]
        elif type(target) is _Array and target.content is None and type(state) is tuple and len(state) == 5:
            _, shape, dtype, is_fortran, content = state
            if type(dtype) is not _DType:
                raise self.error("the pickle has an array that is not of numbers")
            target.content = self.array(content, dtype, shape, bool(is_fortran))
        else:
            raise self.error("the pickle sets the state of something that is no array")

    def raw(self, content: Any) -> bytes:
        if type(content) not in (str, bytes):
            raise self.error("the content of an array is no string")
        self.allowance -= len(content)
        if self.allowance < 0:
            raise self.error("the pickle makes far more arrays than it has bytes for")
        return content.encode("latin-1") if type(content) is str else content

    def array(self, content: Any, dtype: _DType, shape: Any, is_fortran: bool) -> np.ndarray:
        values = np.frombuffer(self.raw(content), dtype=dtype.resolve())
        if type(shape) is not tuple or len(shape) > 4 or not all(type(size) is int and size >= 0 for size in shape):
            raise self.error("an array has no shape")
        if math.prod(shape) != len(values):
            raise self.error(f"an array has {len(values)} values, which do not fill its shape")
        return values.reshape(shape, order="F" if is_fortran else "C").astype(values.dtype.newbyteorder("="))


_STEPS = {
    b"(": lambda m: m.push(_MARK),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.marked(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _Machine.text_number,
    b"L": _Machine.text_number,
    b"J": lambda m: m.push(m.number("i")),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("H")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),
    b"F": _Machine.float_line,
    b"G": lambda m: m.push(m.number("d")),
    b"S": _Machine.quoted,
    b"T": lambda m: m.push(m.take(m.number("I")).decode("latin-1")),
    b"U": lambda m: m.push(m.take(m.number("B")).decode("latin-1")),
    b"V": lambda m: m.push(m.line().encode("latin-1").decode("raw-unicode-escape")),
    b"X": lambda m: m.push(m.take(m.number("I")).decode("utf-8")),
    b"\x8c": lambda m: m.push(m.take(m.number("B")).decode("utf-8")),
    b"B": lambda m: m.push(m.take(m.number("I"))),
    b"C": lambda m: m.push(m.take(m.number("B"))),
    b"\x96": lambda m: m.push(m.take(m.number("Q"))),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.marked()),
    b"a": lambda m: m.append_to_list([m.pop()]),
    b"e": lambda m: m.append_to_list(m.marked()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.marked())),
    b"\x85": lambda m: m.push((m.pop(),)),
    b"\x86": lambda m: m.push((m.pop(), m.pop())[::-1]),
    b"\x87": lambda m: m.push((m.pop(), m.pop(), m.pop())[::-1]),
    b"p": lambda m: m.memo.__setitem__(int(m.line()), m.stack[-1]),
    b"q": lambda m: m.memo.__setitem__(m.number("B"), m.stack[-1]),
    b"r": lambda m: m.memo.__setitem__(m.number("I"), m.stack[-1]),
    b"\x94": lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    b"g": lambda m: m.push(m.memo[int(m.line())]),
    b"h": lambda m: m.push(m.memo[m.number("B")]),
    b"j": lambda m: m.push(m.memo[m.number("I")]),
    b"c": lambda m: m.load_global(m.line(), m.line()),
    b"\x93": _Machine.stack_global,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
}
