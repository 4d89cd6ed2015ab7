"""The world model: encoder, recurrent state-space model, decoder and heads."""
