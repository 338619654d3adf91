"""Routes of `/v1/sql`."""

from services.text2sql.routes import databases, evaluations, examples, questions

ROUTERS = [databases.router, questions.router, examples.router, evaluations.router]
