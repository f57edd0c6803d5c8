"""Solutions that are written here: games of TextArena and pages of MiniWoB++, without the packages."""

from __future__ import annotations

import pytest

from agentrl.adapters.miniwob import _plain, _solution
from agentrl.adapters.textarena import SOLVERS
from agentrl.env.tool_env import call
from agentrl.errors import EnvFault


def test_a_tower_is_moved_in_seven_steps():
    towers = {"A": [3, 2, 1], "B": [], "C": []}
    moves = 0
    while towers["C"] != [3, 2, 1]:
        moves += 1
        source, target = SOLVERS["TowerOfHanoi-v0"]({"towers": towers}).split()
        disk = towers[source].pop()
        assert not towers[target] or towers[target][-1] > disk
        towers[target].append(disk)
    assert moves == 7


def test_the_way_over_the_ice_leads_around_the_holes():
    grid = [list(" H "), list(" H "), list("   ")]
    assert SOLVERS["FrozenLake-v0"]({"grid": grid, "player_pos": (0, 0), "goal_pos": (0, 2)}) == "down"
    assert SOLVERS["FrozenLake-v0"]({"grid": grid, "player_pos": (2, 2), "goal_pos": (0, 2)}) == "up"


@pytest.mark.parametrize("pressed", [[(0, 0)], [(2, 2), (4, 1)], [(0, 1), (1, 3), (3, 3), (4, 4)]])
def test_lights_go_out_in_as_few_steps_as_they_were_lit(pressed):
    grid = [[False] * 5 for _ in range(5)]

    def press(row, column):
        for y, x in ((row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= y < 5 and 0 <= x < 5:
                grid[y][x] = not grid[y][x]

    for light in pressed:
        press(*light)
    for _ in pressed:
        press(*map(int, SOLVERS["LightsOut-v0"]({"grid": grid}).split()))
    assert not any(map(any, grid))


def page(fields, *items):
    kept = [{"ref": ref, "tag": tag, "text": text, "value": value, "id": ""} for ref, tag, text, value in items]
    return _plain({"utterance": "Do it.", "fields": fields, "dom_elements": kept})


def test_a_page_is_solved_element_by_element():
    buttons = page([("target", "TWO")], (4, "button", "ONE", ""), (5, "button", "two", ""))
    assert _solution("click-test-2", buttons) == call("click", element=5)
    login = [("username", "eli"), ("password", "x1")]
    boxes = (7, "button", "Login", "")
    steps = [("", ""), ("eli", ""), ("eli", "x1")]
    actions = [
        _solution("login-user", page(login, (5, "input_text", "", name), (6, "input_password", "", word), boxes))
        for name, word in steps
    ]
    assert actions == [
        call("type_text", element=5, text="eli"),
        call("type_text", element=6, text="x1"),
        call("click", element=7),
    ]
    with pytest.raises(EnvFault, match="none here for 'book-flight'"):
        _solution("book-flight", buttons)
