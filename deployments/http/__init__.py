"""The HTTP face: routes, schemas, limits and the one table of errors. Imports neither torch nor ray."""
