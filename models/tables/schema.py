"""Every table at once: what the migrations are compared with."""

from models.tables import amendments, journal, operations, orders, stock, tenders
from models.tables.base import metadata

MODULES = (orders, amendments, journal, operations, stock, tenders)

__all__ = ["MODULES", "metadata"]
