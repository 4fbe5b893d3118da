"""What a spec may say, from the unions that read it."""

from typing import Any

import orjson
from fastapi import APIRouter, Depends
from fastapi.responses import Response

from service.catalog import catalog
from service.routes.dependencies import ServicesHere, accepts_json
from service.routes.openapi import PROBLEMS

router = APIRouter(tags=["catalog"], dependencies=[Depends(accepts_json)], responses=PROBLEMS)


@router.get("/api/v1/catalog", response_model=dict[str, Any])
def read(services: ServicesHere) -> Response:
    """Every architecture, regularizer, augmentation, attack and mode with JSON Schema and an example; limits and devices."""
    return Response(orjson.dumps(catalog(services.settings)), media_type="application/json")
