"""How lists are asked for in pages."""

from typing import Annotated

from fastapi import Query

MAX_PAGE = 200

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str | None, Query(max_length=256, description="`next_cursor` of the page before")]
