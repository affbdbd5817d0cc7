"""GGUF files, written by the package gguf: what went in comes out, and a damaged or foreign file gives one error."""

import dataclasses
import struct

import numpy as np
import pytest

from gta_ref.lm import model
from gta_ref.weights import gguf as reader
from gta_ref.weights import pretrained
from tests.weights.gguf_files import TINY, write

_MISSING = pretrained.why_not(path="any.gguf")
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_file_gives_the_weights_that_went_into_it(tmp_path, tied):
    config = dataclasses.replace(TINY, tied=tied)
    params = write(tmp_path / "tiny.gguf", config)
    got = pretrained.load(path=tmp_path / "tiny.gguf")
    assert (got.name, got.config, got.context_length) == ("tiny", config, 64)
    assert list(got.params) == list(params)
    for name, p in params.items():
        np.testing.assert_array_equal(got.params[name], p, err_msg=name)
    ids = got.tokenizer.encode("the")
    assert ids == [256, ord("e")]
    logits = got.forward(ids)
    want, _ = model.forward(params, np.array([ids]), config)
    np.testing.assert_array_equal(logits, want[0])
    np.testing.assert_array_equal(got.forward(np.array([ids])), want)


@pytest.mark.parametrize("quantisation", ["Q8_0", "Q4_1", "F16"])
def test_metadata_and_tensors_are_what_gguf_reads(tmp_path, quantisation):
    import gguf

    path = tmp_path / "tiny.gguf"
    fields = {"x.floats": [0.5, 2.0], "x.signed": [-1, 7], "x.empty": "", "general.alignment": 64}
    write(path, quantisation=quantisation, fields=fields)
    got, want = reader.read(path), gguf.GGUFReader(path)
    assert got.fields == {name: f.contents() for name, f in want.fields.items() if not name.startswith("GGUF.")}
    assert list(got.tensors) == [t.name for t in want.tensors]
    for t in want.tensors:
        x = reader.dequantise(got.tensors[t.name])
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, gguf.dequantize(t.data, t.tensor_type), err_msg=t.name)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path, cut = tmp_path / "tiny.gguf", tmp_path / "cut.gguf"
    write(path)
    whole = path.read_bytes()
    in_metadata = range(0, 6000, 97)
    in_tensors = range(6000, len(whole), len(whole) // 20)
    for n in [*in_metadata, *in_tensors, len(whole) - 1]:
        cut.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"cut\.gguf: not a complete GGUF file \(it ends at byte"):
            pretrained.load(path=cut)


def test_a_damaged_file_gives_a_model_or_one_error(tmp_path):
    """Whichever byte of the metadata is wrong: no other exception, no endless loop, and the message names the file."""
    path, bad = tmp_path / "tiny.gguf", tmp_path / "bad.gguf"
    write(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(7)
    end = whole.index(b"blk.1.ffn_down.weight")
    messages = []
    for at, value in zip(rng.integers(0, end, 300), rng.integers(0, 256, 300), strict=True):
        bad.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
        try:
            pretrained.load(path=bad)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all("bad.gguf" in message and "\n" not in message for message in messages)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"general.architecture": "gpt2"}, "general.architecture='gpt2' must be one of 'llama'"),
        ({"llama.embedding_length": None}, "the field llama.embedding_length is missing; expected int"),
        ({"llama.rope.freq_base": "big"}, "the field llama.rope.freq_base is a str; expected float"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count=8 must be the width of a head, 16"),
        ({"llama.attention.head_count": 3}, "llama.rope.dimension_count=16 must be the width of a head, 21"),
        ({"llama.attention.head_count": 3, "llama.rope.dimension_count": None}, "head_dim=21 must be even"),
        ({"llama.attention.head_count": 0}, "llama.attention.head_count=0 must be a whole number of at least 1"),
        ({"llama.block_count": 2**31}, "llama.block_count=2147483648 does not fit 20 tensors"),
        ({"llama.block_count": 1}, "unknown blk.1.attn_norm.weight"),
        ({"llama.feed_forward_length": 64}, r"blk.0.ffn_gate.weight has shape \(96, 64\); expected \(64, 64\)"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model='llama' must be one of 'gpt2'"),
        ({"tokenizer.ggml.pre": "qwen2"}, "tokenizer.ggml.pre='qwen2' must be one of 'smollm'"),
        ({"tokenizer.ggml.add_bos_token": True}, "tokenizer.ggml.add_bos_token=True must be False: no token is added"),
        ({"tokenizer.ggml.add_eos_token": True}, "tokenizer.ggml.add_eos_token=True must be False: no token is added"),
        ({"tokenizer.ggml.add_sep_token": True}, "tokenizer.ggml.add_sep_token=True must be False: no token is added"),
        ({"tokenizer.ggml.add_bos_token": 1}, "the field tokenizer.ggml.add_bos_token is a int; expected bool"),
        ({"tokenizer.ggml.merges": ["t q x"]}, "the vocabulary does not fit"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "token_type has 2 entries; expected 258, one per token"),
        ({"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.token_type": [1, 1]}, "does not fit|2 tokens, and"),
        ({"general.alignment": 0}, "general.alignment=0 must be a whole number of at least 1"),
    ],
)
def test_a_file_of_another_kind(tmp_path, fields, message):
    write(tmp_path / "tiny.gguf", fields=fields)
    with pytest.raises(ValueError, match=rf"tiny\.gguf: .*({message})"):
        pretrained.load(path=tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"rope_freqs.weight": np.ones(7, np.float32)}, r"rope_freqs.weight has shape \(7,\); expected \(8,\) numbers"),
        ({"rope_freqs.weight": np.zeros(8, np.float32)}, "rope_freqs.weight has values that are not above 0"),
        (
            {"blk.0.attn_q.bias": np.ones(64, np.float32)},
            "missing blk.0.attn_k.bias; missing blk.0.attn_v.bias; missing",
        ),
        ({"blk.1.attn_q.bias": np.ones(64, np.float32)}, "unknown blk.1.attn_q.bias"),
        ({"output_norm.weight": np.full(64, np.nan, np.float32)}, "output_norm.weight: some values are not finite"),
        ({"output_norm.weight": np.ones(32, np.float32)}, r"output_norm.weight has shape \(32,\); expected \(64,\)"),
    ],
)
def test_a_file_with_other_tensors(tmp_path, tensors, message):
    write(tmp_path / "tiny.gguf", tensors=tensors)
    with pytest.raises(ValueError, match=rf"tiny\.gguf: .*{message}"):
        pretrained.load(path=tmp_path / "tiny.gguf")


def test_no_gguf_file_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.gguf: no such file"):
        pretrained.load(path=tmp_path / "none.gguf")
    for content, message in [(b"", "it ends at byte 0"), (b"PK\3\4" * 9, "it does not begin with GGUF")]:
        (tmp_path / "x.gguf").write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.gguf: not a complete GGUF file \({message}"):
            pretrained.load(path=tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack(">I", 3) + bytes(32))
    with pytest.raises(ValueError, match=r"x\.gguf: not a complete GGUF file \(it is big-endian"):
        pretrained.load(path=tmp_path / "x.gguf")
