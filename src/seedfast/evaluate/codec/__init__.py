"""A trained text model as a lossless codec: the size of a file is the number that `seedfast score` prints.

The encoder runs the sampler on the text, the decoder runs the same sampler with the tokens that it decodes: the same
calls on tensors of the same shapes, so that both have the same probabilities to the last bit.
"""
