"""A package, unlike its neighbours, so that a fixture can last as long as the tests in it."""
