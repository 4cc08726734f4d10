"""Pages for people: self-contained HTML that loads nothing from anywhere, made of templates and charts.

Every page is a template, beside the code that knows its facts, and extends `base.html` of `lambdaml/pages/templates`. It is light or dark as its reader's
system is, needs no mouse, can be read at a width of 400 pixels, and can be printed. Charts are drawn by Vega
(https://vega.github.io), which is part of the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from lambdaml.errors import UserError
from lambdaml.pages.charts import Chart

if TYPE_CHECKING:
    from jinja2 import Environment

_EXTRA = "pages need Vega, which comes with vl-convert: pip install 'lambdaml-runtime[report]'"


def render(template: str, package: str, *, charts: Mapping[str, Chart | None], **facts: Any) -> str:
    """Return a page.

    Args:
        template: The name of the template, such as `plan.html`.
        package: The package that has the template in its folder `templates`.
        charts: The charts by the names that the template has for them; None for one that has nothing to show.
        facts: The values by the names that the template has for them.

    Raises:
        UserError: If the package that brings Vega is not installed.
    """
    shown = {name: chart for name, chart in charts.items() if chart is not None}
    data = {name: chart.to_dict() for name, chart in shown.items()}
    page = _environment(package).get_template(template)
    return page.render(charts=shown, chart_data=as_script(data), vega=_vega(), **facts)


def fragment(template: str, package: str, **facts: Any) -> str:
    """Return a piece of a page from a template of a package; see `render`."""
    return _environment(package).get_template(template).render(**facts)


def as_script(value: Any) -> str:
    """Return JSON that may stand in a script element; numbers that are not finite become null."""
    text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def finite(value: Any) -> Any:
    """Return plain values with None in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


@cache
def _vega() -> str:
    """Return the script that draws charts, as it may stand in a page."""
    try:
        import vl_convert
    except ImportError:
        raise UserError(_EXTRA) from None
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return str(bundle).replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _environment(package: str) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("lambdaml.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
