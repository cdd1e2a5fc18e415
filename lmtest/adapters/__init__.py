"""Strangers' models: anything that says what comes next, taken as a model of a language and checked before it is used."""
