"""What is changed in a module: operators of cosmic-ray that fit this code, and three of our own."""

from cosmic_ray.operators.exception_replacer import ExceptionReplacer
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Keyword

_SWAPPED = {
    "ReplaceBinaryOperator": "Add_Sub Sub_Add Mul_FloorDiv FloorDiv_Mul BitOr_BitAnd BitAnd_BitOr "
    "LShift_RShift RShift_LShift",
    "ReplaceComparisonOperator": "Eq_NotEq NotEq_Eq Lt_LtE LtE_Lt Gt_GtE GtE_Gt Is_IsNot IsNot_Is",
    "ReplaceUnaryOperator": "USub_UAdd Delete_Not",
}
"""For each operator one other: most of cosmic-ray's replacements raise TypeError."""

_OTHERS = (
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr"),
    *("ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *("NumberReplacer", "RemoveDecorator", "ZeroIterationForLoop"),
)


class ReplaceException(ExceptionReplacer):
    """Replaces a caught exception; cosmic-ray's own fails if the exception's name has a dot."""

    @staticmethod
    def _name_nodes(node):
        caught = node.children[1]
        if caught.type == "atom":
            caught = caught.children[1]
        several = caught.children[::2] if caught.type == "testlist_comp" else [caught]
        return [each.get_last_leaf() for each in several]


class RemoveStatement(Operator):
    """Removes a call, a raise, a del, or an assignment to an attribute, and what is returned."""

    def mutation_positions(self, node):
        """Yield the position of a statement that can be removed."""
        if node.type == "simple_stmt" and self._replacement(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node, index):
        """Replace the statement."""
        statement = node.children[0]
        first = statement.get_first_leaf()
        text = self._replacement(statement)
        node.children[0] = Keyword(text, first.start_pos, first.prefix)
        return node

    @staticmethod
    def _replacement(statement):
        """Return what takes the place of a statement, or None if it stays."""
        if statement.type == "return_stmt":
            # Other operators change a truth value, of which None is one.
            value = statement.children[1].get_code().strip()
            return None if value in ("None", "True", "False") else "return None"
        if statement.type in ("atom_expr", "yield_expr", "raise_stmt", "del_stmt"):
            return "pass"
        if statement.type == "keyword" and statement.value in ("return", "raise"):
            return "pass"
        if statement.type == "expr_stmt":
            # Without the assignment of a local variable, most often the next line raises NameError.
            target, equals = statement.children[:2]
            is_local = equals == "=" and not any(mark in target.get_code() for mark in ".[")
            return None if is_local or equals.type == "annassign" else "pass"
        return None

    @classmethod
    def examples(cls):
        """Return no examples: they are those of the test."""
        return ()


class ChangeBytes(Operator):
    """Adds an octet to a literal of octets, which programs read."""

    def mutation_positions(self, node):
        """Yield the position of a literal."""
        if node.type == "string" and "b" in node.string_prefix.lower():
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        """Add the octet at the end."""
        quotes = 3 if node.value.endswith(('"""', "'''")) else 1
        node.value = f"{node.value[:-quotes]}X{node.value[-quotes:]}"
        return node

    @classmethod
    def examples(cls):
        """Return no examples: they are those of the test."""
        return ()


_PROVIDER = OperatorProvider()

OPERATORS = (
    *(
        _PROVIDER[f"{name}_{swapped}"]()
        for name, all_swapped in _SWAPPED.items()
        for swapped in all_swapped.split()
    ),
    *(_PROVIDER[name]() for name in _OTHERS),
    ReplaceException(),
    RemoveStatement(),
    ChangeBytes(),
)
