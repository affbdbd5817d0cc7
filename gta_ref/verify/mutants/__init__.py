"""Mutants: wrong implementations, each with one step replaced, that the kit must catch and can recognise.

A mutant names the first array that it makes wrong. The self-test requires that the core suite catches every mutant and
blames that array. The diagnosis of an implementation looks for the mutant that computes the same wrong numbers.
"""
