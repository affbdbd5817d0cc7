"""Read a model's configuration so that no field is overlooked: every one is applied, checked, harmless or refused.

A reader asks :class:`Fields` for the fields that it applies or checks, and calls ``finish``. A field that was not asked
for has to be one of `HARMLESS`, which change nothing that is computed here, or to be null, which means "not set".
Anything else, a soft cap as well as a name that is new to this library, is refused: it may change the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gta_ref.errors import as_positive_float, as_size, check_bool, check_type, listed, shown

ConfigDict = Mapping[str, Any]

# of inference, training, generation and file keeping; a name that begins with "_" is harmless as well
_HARMLESS = """
    architectures auto_map model_type torch_dtype dtype transformers_version transformers.js_config name_or_path
    tokenizer_class use_cache return_dict use_return_dict output_attentions output_hidden_states torchscript
    use_bfloat16 tf_legacy_loss gradient_checkpointing is_llama_config keys_to_ignore_at_inference
    bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id image_token_id
    id2label label2id num_labels problem_type task_specific_params finetuning_task prefix
    attention_dropout hidden_dropout resid_dropout embd_dropout attn_pdrop resid_pdrop embd_pdrop
    hidden_dropout_prob attention_probs_dropout_prob classifier_dropout initializer_range initializer_factor
    max_position_embeddings original_max_position_embeddings max_sequence_length seq_length model_max_length
    pretraining_tp ep_size aux_loss_alpha seq_aux router_aux_loss_coef output_router_logits num_nextn_predict_layers
    num_mtp_layers max_window_layers
    do_sample max_length min_length max_new_tokens num_beams num_beam_groups num_return_sequences early_stopping
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size diversity_penalty bad_words_ids forced_bos_token_id forced_eos_token_id
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens remove_invalid_values output_scores
    return_dict_in_generate
"""
HARMLESS = frozenset(_HARMLESS.split())
# what a transformer of one stack and of whole heads has; true or a value is another architecture
_ONLY: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "is_decoder": (False, True),  # written by old files, without effect on a model of this kind
    "tie_encoder_decoder": (False,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({},),
}


class Fields:
    """The fields of a configuration, each of which has to be read or refused.

    Parameters
    ----------
    what : str
        Name of the configuration in error messages.
    config_dict : mapping
        The content of config.json.
    """

    def __init__(self, what: str, config_dict: ConfigDict) -> None:
        check_type(what, config_dict, Mapping, "a mapping of field names to values, the content of config.json")
        self.what = what
        self._values = {str(name): value for name, value in config_dict.items()}
        self._read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default` if the field is missing or null."""
        self._read.add(name)
        value = self._values.get(name)
        return default if value is None else value

    def has(self, name: str) -> bool:
        """Whether the field is there, even as null; this does not count as reading it."""
        return name in self._values

    def need(self, *names: str) -> None:
        """Raise ValueError unless all these fields are there."""
        missing = [name for name in names if name not in self._values]
        if missing:
            raise ValueError(f"{self.what}: missing {', '.join(missing)}; expected {', '.join(names)}")

    def size(self, name: str, default: int | None = None, *, at_least: int = 1) -> int:
        """A whole number; without a default, the field has to be there."""
        value = self.get(name, default)
        return as_size(name, value, at_least=at_least)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0; without a default, the field has to be there."""
        return as_positive_float(name, self.get(name, default))

    def truth(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        check_bool(name, value)
        return bool(value)

    def only(self, name: str, *allowed: Any, why: str = "") -> None:
        """Raise ValueError if the field is set to anything but one of `allowed`; a number may be an int or a float."""
        value = self.get(name)
        if value is not None and not any(_equal(value, one) for one in allowed):
            expected = " or ".join("null" if one is None else repr(one) for one in allowed) or "null"
            raise ValueError(f"{self.what}: {name}={shown(value)} must be {expected}{why and f': {why}'}")

    def ignore(self, *names: str) -> None:
        """Count these fields as read: what they say concerns another part of the model."""
        self._read.update(names)

    def finish(self) -> None:
        """Raise ValueError if a field is left that was not read and is not harmless; the message names all of them."""
        for name, allowed in _ONLY.items():
            self.only(name, *allowed)
        left = [
            name
            for name, value in self._values.items()
            if value is not None and name not in self._read and name not in HARMLESS and not name.startswith("_")
        ]
        if left:
            shortly = [f"{name}={shown(self._values[name])}" for name in left]
            raise ValueError(
                f"{self.what}: unknown {listed(shortly)}; expected no field that may change the result and that is not "
                f"applied here"
            )


def _equal(value: Any, allowed: Any) -> bool:
    """Whether two values of JSON are equal; true is not 1."""
    if isinstance(value, bool) or isinstance(allowed, bool):
        return value is allowed
    try:
        return bool(value == allowed)
    except ValueError:  # of an array
        return False
