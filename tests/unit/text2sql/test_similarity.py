"""Texts are compared by the gateway's embeddings, in batches, and a refusal is no crash."""

from __future__ import annotations

import json

import httpx
import pytest

from services.text2sql.gateway_chat import EMBEDDED_TOGETHER, GatewaySimilarity
from services.text2sql.pisql.errors import ModelUnavailableError
from shared.principal import Principal, PrincipalSigner

SIGNER = PrincipalSigner("s" * 48)
CALLER = Principal(key_id="key_1", tenant="t", scopes=frozenset({"sql", "model"}))


def similarity(handler: httpx.MockTransport) -> GatewaySimilarity:
    return GatewaySimilarity(
        "http://gateway", SIGNER, CALLER, model="embed", client=httpx.AsyncClient(transport=handler)
    )


async def test_cosines_come_from_the_principals_own_embeddings() -> None:
    sizes = []

    def embed(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/embeddings"
        SIGNER.verify(request.headers["authorization"].removeprefix("Bearer "), audience="gateway")
        texts = json.loads(request.content)["input"]
        sizes.append(len(texts))
        return httpx.Response(200, json={"data": [{"embedding": [len(text), 1.0]} for text in texts]})

    pairs = [("aa", "bb"), ("a", "bbb"), *((f"x{n}", "aa") for n in range(80))]
    cosines = await similarity(httpx.MockTransport(embed)).compare(pairs)
    assert cosines[0] == pytest.approx(1.0)
    assert cosines[1] == pytest.approx(4 / 20**0.5)
    assert (sizes[0], sum(sizes)) == (EMBEDDED_TOGETHER, 84)


@pytest.mark.parametrize("answer", [httpx.Response(503), httpx.Response(200, json={"error": "no"})])
async def test_a_refusal_is_told(answer: httpx.Response) -> None:
    with pytest.raises(ModelUnavailableError):
        await similarity(httpx.MockTransport(lambda _request: answer)).compare([("a", "b")])
