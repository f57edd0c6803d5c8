from tests.learning.fixtures import make_model, make_rows, one_thread

__all__ = ["make_model", "make_rows", "one_thread"]
