"""A second, right implementation of every case, in steps that can be replaced one by one.

It is independent of the library and written with explicit indices and einsum, without regard to speed. It has two uses:
it is compared with the library like any other implementation, and each wrong implementation of
:mod:`gta_ref.verify.mutants` is this one with one step replaced. :class:`gta_ref.verify.stepwise.dispatch.Stepwise` is
the whole implementation; the other files hold the steps of one level or mechanism each.
"""
