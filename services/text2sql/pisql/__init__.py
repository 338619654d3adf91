"""Pi-SQL: SQL from questions, checked against independently written Python programs.

A pure package after "Pi-SQL: Enhancing Text-to-SQL with Fine-Grained Guidance from Pivot Programming
Languages" (arXiv 2506.00912): stages S0 to S12 are functions of their inputs, the configuration and
the model's replies. Models, sandboxes and databases come in through `ports`.
"""

from services.text2sql.pisql.configuration import Configuration, ModelProfile, Profile, Role
from services.text2sql.pisql.objects import Answer, Question, SchemaView, Verdict
from services.text2sql.pisql.pipeline import Knowledge, answer
from services.text2sql.pisql.ports import Event, Ports

__all__ = [
    "Answer",
    "Configuration",
    "Event",
    "Knowledge",
    "ModelProfile",
    "Ports",
    "Profile",
    "Question",
    "Role",
    "SchemaView",
    "Verdict",
    "answer",
]
