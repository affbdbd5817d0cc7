"""GGUF files that are cut off, changed, nested, duplicated, huge or of the other byte order: one line with the name."""

import struct

import numpy as np
import pytest

from gta_ref.weights import gguf as reader
from gta_ref.weights import pretrained
from tests.support import refused

_MISSING = pretrained.why_not(path="any.gguf")
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))

U32, STRING, LIST = 4, 8, 9


def string(text):
    content = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(content)) + content


def field(name, kind, value):
    return string(name) + struct.pack("<I", kind) + value


def tensor(name, shape, kind=0, offset=0):
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def content(fields=(), tensors=(), data=b"", version=3, n_fields=None, n_tensors=None):
    n_fields = len(fields) if n_fields is None else n_fields
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_fields) + b"".join(fields) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def read_all(path):
    """Read a file and undo the quantisation of every tensor, as the loader does."""
    file = reader.read(path)
    for name, x in file.tensors.items():
        try:
            reader.dequantise(x)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}") from None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.gguf"


NESTED = struct.pack("<IQ", LIST, 1) * 500 + struct.pack("<IQ", U32, 0)
ONE = field("a", U32, bytes(4))


@pytest.mark.parametrize(
    "whole, reason",
    [
        (content([field("a", LIST, NESTED)]), "nested more than 8 deep"),
        (content([field("a", LIST, struct.pack("<IQ", LIST, 1) * 10_000)]), "nested more than 8 deep"),
        (content([ONE, ONE]), "the field a is there twice"),
        (content([], [tensor("t", [2]), tensor("t", [2])], bytes(64)), "the tensor t is there twice"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "it is big-endian; expected little-endian"),
        (content(version=1), "version 1; expected 2 or 3"),
        (content(version=2**32 - 1), "version 4294967295; expected 2 or 3"),
        (content(n_fields=2**63), "it ends at byte"),
        (content(n_tensors=2**64 - 1), "it ends at byte"),
        (content([field("a", LIST, struct.pack("<IQ", U32, 2**62))]), "it ends at byte"),
        (content([field("a", LIST, struct.pack("<IQ", STRING, 2**62))]), "it ends at byte"),
        (content([field("a", LIST, struct.pack("<IQ", 99, 2**62))]), "of the unknown kind 99"),
        (content([field("a", LIST, struct.pack("<IQ", 99, 0))]), "of the unknown kind 99"),
        (content([field("a", STRING, struct.pack("<Q", 2**64 - 1))]), "it ends at byte"),
        (content([field("a", STRING, string(b"\xff"))]), "codec can't decode"),
        (content([field("a\n\x1b[2J", U32, bytes(4))]), "has characters that cannot be printed"),
        (content([], [tensor("t\n", [2])], bytes(8)), "has characters that cannot be printed"),
        (content([field("b" * 99_999, 77, b"")]), "of the unknown kind 77"),
        (content([], [tensor("t" * 99_999, [3], 2)], bytes(99)), "rows of 3 values"),
        (content([], [tensor("t", [])]), "t has 0 sizes; expected 1 to 4"),
        (content([], [tensor("t", [1] * 5)], bytes(8)), "t has 5 sizes; expected 1 to 4"),
        (content([], [tensor("t", [0, 2**63])]), r"the shape \(9223372036854775808, 0\); expected sizes of at least 1"),
        (content([], [tensor("t", [2**63, 2**63])]), "it ends at byte"),
        (content([], [tensor("t", [2], 3000)], bytes(8)), "unknown quantisation 3000"),
        (content([], [tensor("t", [2], 0, 2**64 - 1)], bytes(8)), "it ends at byte"),
        (content([field("general.alignment", U32, struct.pack("<I", 0))]), "general.alignment=0"),
        (content([field("general.alignment", 11, struct.pack("<q", -32))]), "general.alignment=-32"),
        (content([field("general.alignment", LIST, struct.pack("<IQ", 0, 0))]), r"general.alignment=\[\]"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:40],
)
def test_files_that_are_wrong(path, whole, reason):
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=rf"a\.gguf: .*{reason}"):
        read_all(path)
    assert refused(read_all, path)


def test_lists_of_lists_up_to_the_limit_can_be_read(path):
    path.write_bytes(content([field("a", LIST, struct.pack("<IQ", LIST, 1) * 7 + struct.pack("<IQI", U32, 1, 5))]))
    assert reader.read(path).fields == {"a": [[[[[[[[5]]]]]]]]}


@pytest.fixture
def small(path, rng):
    fields = [field("a", U32, struct.pack("<I", 7)), field("b", LIST, struct.pack("<IQ", STRING, 2) + string("x") * 2)]
    fields += [field("c", LIST, struct.pack("<IQ3f", 6, 3, 1, 2, 3)), field("d", STRING, string("ü\n"))]
    tensors = [tensor("t", [32, 2], 8), tensor("u", [3, 2], 0, 96), tensor("v", [4], 1, 128)]
    data = bytearray(128 + 8)
    data[96:120] = rng.standard_normal(6).astype(np.float32).tobytes()
    path.write_bytes(content(fields, tensors, bytes(data)))
    read_all(path)
    return path


def test_truncated_at_every_byte(small):
    whole = small.read_bytes()
    for n in range(len(whole)):
        small.write_bytes(whole[:n])
        assert refused(read_all, small), n


def test_three_flipped_bits_of_every_byte(small):
    whole = small.read_bytes()
    lines = []
    for at in range(len(whole)):
        for bit in (0, 4, 7):
            small.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            lines.append(refused(read_all, small))
    assert sum(line is not None for line in lines) > len(lines) / 4


@pytest.mark.parametrize("kind", ["I8", "I16", "I32", "I64", "F64", "TQ1_0", "IQ4_XS", "MXFP4", "BF16"])
def test_every_kind_is_dequantised_or_refused(path, kind):
    import gguf

    number = gguf.GGMLQuantizationType[kind]
    values, size = gguf.GGML_QUANT_SIZES[number]
    path.write_bytes(content([], [tensor("t", [values, 2], int(number))], bytes(2 * size)))
    line = refused(read_all, path)
    assert line is None or kind in line


def test_foreign_files(tmp_path, rng):
    contents = [b"\x89PNG\r\n\x1a\n", b"PK\3\4", b"ggjt\1\0\0\0", b"{}", b"FUGG", b"GGUF", b"GGUF\3\0\0\0"]
    contents += [b"GGUF\3\0\0\0" + rng.bytes(n) for n in rng.integers(1, 400, 200)]
    for i, start in enumerate(contents):
        path = tmp_path / f"{i}.gguf"
        path.write_bytes(start + b"\xff" * 100)
        assert refused(read_all, path)


@pytest.mark.parametrize("name", ["tokens", "token_type", "merges"])
def test_nested_lists_in_the_tokenizer(tmp_path, name):
    """A list where a token, its type or a merge is expected is refused."""
    from gta_ref.weights.tokenizer import Tokenizer

    lists = {"tokens": ["a", "b"], "token_type": [1, 3], "merges": ["a b", "b a"]}
    lists[name] = [lists[name][0], [["x"]]]
    fields = {f"tokenizer.ggml.{key}": value for key, value in lists.items()}
    fields |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.eos_token_id": 0}
    file = reader.GGUF(tmp_path / "a.gguf", fields, {})
    with pytest.raises(ValueError, match=rf"tokenizer.ggml.{name} contains a list; expected only (str|int)"):
        Tokenizer(file)


def test_a_merge_with_control_characters(tmp_path):
    from gta_ref.weights.tokenizer import Tokenizer

    fields = {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.token_type": [1], "tokenizer.ggml.merges": ["a \n\0"]}
    fields |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.eos_token_id": 0}
    with pytest.raises(ValueError, match="the vocabulary does not fit") as caught:
        Tokenizer(reader.GGUF(tmp_path / "a.gguf", fields, {}))
    assert str(caught.value).isprintable()
