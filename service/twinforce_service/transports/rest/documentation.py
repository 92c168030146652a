"""The page /docs, which shows the OpenAPI description; all of its parts come from this service."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

# Addresses relative to that of the page, so that a proxy may serve it below a path.
_DOCS, _ASSETS, _OPENAPI = "docs", "docs/assets", "openapi.json"
# The package and folder of Swagger UI.
_SWAGGER_UI = ("fastapi_offline", "static")
# Swagger UI would send the description to a server of its makers, to be checked.
_PARAMETERS = {"validatorUrl": None}


def add_docs_page(app: FastAPI) -> None:
    """Add the page to an application, behind all of its other routes."""
    page = get_swagger_ui_html(
        openapi_url=_OPENAPI,
        title=app.title,
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
        swagger_ui_parameters=_PARAMETERS,
    )

    async def show_docs() -> HTMLResponse:
        return page

    app.add_api_route(f"/{_DOCS}", show_docs, include_in_schema=False)
    app.mount(f"/{_ASSETS}", StaticFiles(packages=[_SWAGGER_UI]))
