"""Weights of other programs: their files, state dicts, names and layouts, converted to ours and back.

:mod:`~gta_ref.weights.official` reads the authors' GTA, :mod:`~gta_ref.weights.llama_deepseek` single attention layers
of Llama's and DeepSeek's form, :mod:`~gta_ref.weights.llama` a whole model of Llama's form,
:mod:`~gta_ref.weights.pretrained` a whole model with its tokenizer from a GGUF file.
:func:`gta_ref.weights.load.load_model` loads a language model by its name or from its file. No field of a configuration
is overlooked: each is applied, known to change nothing, or refused by its name.
"""
