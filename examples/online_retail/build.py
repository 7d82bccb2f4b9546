"""Makes this folder's two files from the whole data set: ``python -m examples.online_retail.build FULL.parquet``."""

import sys
from datetime import datetime
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from activities.channels.assumed_stock import assumed_stock, demand_of
from activities.channels.online_retail import read_invoices

FOLDER = Path(__file__).parent
INVOICES = FOLDER / "invoices-2011-09-10.parquet"
STOCK = FOLDER / "stock.parquet"
FROM, UNTIL = datetime(2011, 9, 1), datetime(2011, 11, 1)  # noqa: DTZ001 - the file's own times have no zone


def build(full: Path) -> None:
    """Write the invoices of September and October 2011 as they are, and the stock assumed for them."""
    table = pyarrow.parquet.read_table(full)
    at = table["InvoiceDate"]
    in_range = pyarrow.compute.and_(
        pyarrow.compute.greater_equal(at, pyarrow.scalar(FROM, at.type)),
        pyarrow.compute.less(at, pyarrow.scalar(UNTIL, at.type)),
    )
    pyarrow.parquet.write_table(table.filter(in_range), INVOICES, compression="zstd", compression_level=19)

    drafts = [result.draft for result in read_invoices(INVOICES) if result.draft is not None]
    stock = assumed_stock(demand_of(drafts))
    columns = {
        "node": pyarrow.array([row.node for row in stock]),
        "sku": pyarrow.array([row.sku for row in stock]),
        "on_hand": pyarrow.array([row.on_hand for row in stock], pyarrow.int64()),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), STOCK, compression="zstd", compression_level=19)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
