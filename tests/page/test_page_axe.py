"""axe-core finds no serious barrier in any state of the page."""

import os
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["browsing"]
AXE = Path(
    os.environ.get("ATTNVIZ_AXE") or Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"
)
pytestmark = pytest.mark.skipif(
    not AXE.is_file(),
    reason="no axe-core: npm install --no-save axe-core@4 (or ATTNVIZ_AXE=…/axe.min.js)",
)
STATES = {
    "registers": [
        "",
        "#a=1,1&b=mean&keep=60&drawing=cells&rows=all&sort=-entropy",
        "#show=rollout",
    ],
    "swin": ["#show=received&merge=max"],
    "scene": ["", "#a=word%3Abird&cell=4,16&merge=mean"],
    "YOLOS": [""],
    "masked": ["#pointer=reads&scale=log"],
}
CASES = [(name, fragment) for name, fragments in STATES.items() for fragment in fragments]


@pytest.mark.parametrize("width", [1280, 380])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_violation(theme: str, width: int, new_page: Any, show: Any) -> None:
    page = new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    for name, fragment in CASES:
        show(name, fragment, on=page, threshold=0.0)
        page.mouse.move(width // 2, 450)
        assert violations(page) == [], (name, fragment)
    page.keyboard.press("?")
    assert violations(page) == []


def violations(page: Any) -> list[Any]:
    page.evaluate(AXE.read_text(encoding="utf-8") + ";0")
    found: list[Any] = page.evaluate(
        """async () => {
            const { violations } = await axe.run(document, {resultTypes: ["violations"]});
            return violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
                .map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
        }"""
    )
    return found
