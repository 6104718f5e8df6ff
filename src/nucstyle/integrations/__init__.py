"""Thin adapters to other libraries, one file a library, imported only when asked for.

Each file has a `StyleTransfer`: a `nucstyle.StyleTransfer` in the form that the library's own transforms have. Whether an
image is restyled, and into what, stays with the object inside; what the library adds is where the randomness comes from
and which of its inputs are images. Everything that is no image comes back as the very object that went in.
"""
