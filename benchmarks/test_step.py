"""The training step of the benchmarks is the one of the notebook."""

import ast
import inspect
import textwrap
from pathlib import Path

import nbformat

from benchmarks.step import Training

NOTEBOOK = Path(__file__).parent.parent / "swinunetr_finetune.ipynb"
CHANGE = (
    f"{NOTEBOOK.name} trains in another way than benchmarks/step.py. Change {{}} there as the notebook was changed."
)


class WithoutSelf(ast.NodeTransformer):
    """Turns `self.model` into the notebook's `model`."""

    def visit_Attribute(self, node):
        self.generic_visit(node)
        return ast.Name(node.attr) if isinstance(node.value, ast.Name) and node.value.id == "self" else node


def statements(body):
    return [ast.unparse(WithoutSelf().visit(statement)) for statement in body]


def lines_of(method):
    """Return the statements of a method without its docstring."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0]
    return statements([node for node in tree.body if not isinstance(getattr(node, "value", None), ast.Constant)])


def cell(name):
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    return ast.parse(next(cell.source for cell in cells if cell.id == name)).body


def test_a_step_has_the_statements_of_the_notebooks_loop():
    (block,) = [node for node in cell("train") if isinstance(node, ast.With)]
    loop = statements(block.body[0].body)
    expected = loop[: loop.index("run.losses.append(loss_value)")]
    *found, returned = lines_of(Training.step)
    assert found == expected and returned == "return loss_value", CHANGE.format("Training.step")


def test_loss_and_optimizer_are_those_of_the_notebook():
    _, *found = lines_of(Training.__init__)
    nodes = [node for name in ("network", "loss", "optimizer", "train") for node in cell(name)]
    names = {statement.split(" = ")[0] for statement in found}
    expected = [line for line in statements(nodes) if line.split(" = ")[0] in names]
    assert found == expected, CHANGE.format("Training.__init__")
