"""Exercise 2: what the check says to answers as students write them."""

import numpy as np

from tests.exercises.answers import Answers

ANSWERS = Answers("ex02")


@ANSWERS.wrong("is not written yet")
def untouched(n_h, n_q, n_k, n_c):
    pass


@ANSWERS.wrong("heads are interleaved (i % n_q)")
def modulo(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) % n_q
    return m, m % n_k, m % n_c


@ANSWERS.wrong("the maps are interleaved over the key or latent heads (m % n)")
def maps_modulo(n_h, n_q, n_k, n_c):
    m = [i // (n_h // n_q) for i in range(n_h)]
    return m, [x % n_k for x in m], [x % n_c for x in m]


@ANSWERS.wrong("key_of_head", "over the key heads (m % n_k), though not over the latent heads")
def keys_modulo(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m % n_k, m // (n_q // n_c)


@ANSWERS.wrong("latent_of_head", "over the latent heads (m % n_c), though not over the key heads")
def latents_modulo(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m // (n_q // n_k), m % n_c


@ANSWERS.wrong("interleaved over the output heads (i % n_k, i % n_c)")
def head_modulo(n_h, n_q, n_k, n_c):
    i = np.arange(n_h)
    return i // (n_h // n_q), i % n_k, i % n_c


@ANSWERS.wrong("divided by n_q, the number of maps")
def divided_by_maps(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // n_q
    return m, m // (n_q // n_k), m // (n_q // n_c)


@ANSWERS.wrong("divided by the number of key or latent heads")
def divided_by_keys(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m // n_k, m // n_c


@ANSWERS.wrong("the head's own number i, not its map's number m")
def head_for_map(n_h, n_q, n_k, n_c):
    i = np.arange(n_h)
    return i // (n_h // n_q), i // (n_q // n_k), i // (n_q // n_c)


@ANSWERS.wrong("counted from 1")
def from_one(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m + 1, m // (n_q // n_k) + 1, m // (n_q // n_c) + 1


@ANSWERS.wrong("key and latent heads are exchanged")
def exchanged(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m // (n_q // n_c), m // (n_q // n_k)


@ANSWERS.wrong("the latent head is the key head")
def latent_is_key(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    k = m // (n_q // n_k)
    return m, k, k


@ANSWERS.wrong("the key head is the map")
def key_is_map(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m, m // (n_q // n_c)


@ANSWERS.wrong("a key and a latent head of its own")
def nothing_shared(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m, m


@ANSWERS.wrong("keeps its remainder: use //")
def true_division(n_h, n_q, n_k, n_c):
    i = np.arange(n_h)
    return i / (n_h / n_q), i / (n_h / n_k), i / (n_h / n_c)


@ANSWERS.wrong("rounded to the nearest number")
def rounded(n_h, n_q, n_k, n_c):
    i = np.arange(n_h)
    return tuple(np.round(i / (n_h / n)).astype(int) for n in (n_q, n_k, n_c))


@ANSWERS.wrong("right values, but as float64; expected whole numbers: int(…), or x.astype(int)")
def floats(n_h, n_q, n_k, n_c):
    m = np.floor(np.arange(n_h) / (n_h / n_q))
    return m, np.floor(m / (n_q / n_k)), np.floor(m / (n_q / n_c))


@ANSWERS.wrong("returns 2 values; expected 3: map_of_head, key_of_head, latent_of_head")
def latent_forgotten(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m // (n_q // n_k)


@ANSWERS.wrong("key_of_head has shape (5,)")
def per_map(n_h, n_q, n_k, n_c):
    m = np.arange(n_q)
    return np.arange(n_h) // (n_h // n_q), m // (n_q // n_k), m // (n_q // n_c)


@ANSWERS.right
def with_arrays(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m // (n_q // n_k), m // (n_q // n_c)


@ANSWERS.right
def with_lists(n_h, n_q, n_k, n_c):
    maps, keys, latents = [], [], []
    for i in range(n_h):
        m = i // (n_h // n_q)
        maps.append(m)
        keys.append(m // (n_q // n_k))
        latents.append(m // (n_q // n_c))
    return [maps, keys, latents]


@ANSWERS.right
def with_repeat(n_h, n_q, n_k, n_c):
    return tuple(np.repeat(np.arange(n), n_h // n) for n in (n_q, n_k, n_c))


@ANSWERS.right
def one_array(n_h, n_q, n_k, n_c):
    m = np.floor_divide(np.arange(n_h, dtype=np.uint8), n_h // n_q)
    return np.vstack([m, m // (n_q // n_k), m // (n_q // n_c)]).tolist()


@ANSWERS.right
def integers_of_floats(n_h, n_q, n_k, n_c):
    return tuple((np.arange(n_h) * n / n_h).astype(int) for n in (n_q, n_k, n_c))


@ANSWERS.right
def nested_runs(n_h, n_q, n_k, n_c):
    def runs(n, of):
        return [head for head in range(n) for _ in range(of // n)]

    maps = runs(n_q, n_h)
    return maps, [runs(n_k, n_q)[m] for m in maps], [runs(n_c, n_q)[m] for m in maps]


@ANSWERS.right_with("torch")
def in_torch(n_h, n_q, n_k, n_c):
    import torch

    m = torch.arange(n_h) // (n_h // n_q)
    return m.numpy(), (m // (n_q // n_k)).numpy(), torch.div(m, n_q // n_c, rounding_mode="floor").numpy()


@ANSWERS.wrong_ones()
def test_wrong(function, words):
    ANSWERS.refused(function, words)


@ANSWERS.right_ones()
def test_right(function):
    ANSWERS.accepted(function)
